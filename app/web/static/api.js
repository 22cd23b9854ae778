// How the page asks the service: JSON, problems as sentences, a key where the service wants one, and event streams.
const KEY = "gradcast-key";

export class Problem extends Error {
  constructor(status, document) {
    super(document.detail ?? document.title ?? `The service answered with ${status}.`);
    this.status = status;
    this.document = document;
    this.code = document.code;
  }
}

function headers(extra = {}) {
  const key = sessionStorage.getItem(KEY);
  return key ? { Authorization: `Bearer ${key}`, ...extra } : extra;
}

export async function send(path, options) {
  let answer, document;
  for (;;) {
    const used = sessionStorage.getItem(KEY);
    answer = await fetch(path, { ...options, headers: headers(options.headers) });
    if (answer.ok) return answer;
    document = await answer.json().catch(() => ({}));
    if (answer.status !== 401 && document.code !== "scope_missing") break;
    // Another request may have asked meanwhile.
    if (sessionStorage.getItem(KEY) === used && !(await askForKey(document))) break;
  }
  const first = document.errors?.[0];
  if (first) document.detail = `${first.path}: ${first.message}`;
  throw new Problem(answer.status, document);
}

export async function ask(path, content = null, method = content === null ? "GET" : "POST") {
  const options = { method };
  if (content !== null) { options.body = JSON.stringify(content); options.headers = { "Content-Type": "application/json" }; }
  const answer = await send(path, options);
  return answer.status === 204 ? null : answer.json();
}

export async function upload(file, name) {
  const options = { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } };
  return (await send(`/datasets?name=${encodeURIComponent(name)}`, options)).json();
}

let asking = null;

// One dialog for all requests that wait for a key. It is kept until the tab is closed, and nowhere else.
export function askForKey(problem = {}) {
  asking ??= new Promise((resolve) => {
    const dialog = document.querySelector("#key-dialog"), input = dialog.querySelector("input");
    dialog.querySelector("#key-reason").textContent = problem.detail ?? "";
    dialog.returnValue = "leave";
    dialog.addEventListener("close", () => {
      const key = input.value.trim();
      input.value = "";
      asking = null;
      if (dialog.returnValue === "forget") sessionStorage.removeItem(KEY);
      if (dialog.returnValue === "use" && key) sessionStorage.setItem(KEY, key);
      resolve(dialog.returnValue === "use" && Boolean(key));
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

document.querySelector("#key-open").addEventListener("click", async () => {
  const before = sessionStorage.getItem(KEY);
  await askForKey();
  if (sessionStorage.getItem(KEY) !== before) location.reload();
});

// Reads server-sent events with fetch, which can carry a key, and goes on where it was after a lost connection.
export async function listen(path, handlers) {
  let last = "", isOver = false;
  while (!isOver) {
    try {
      const answer = await send(path, { headers: last ? { "Last-Event-ID": last } : {} });
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        const blocks = (rest + value).split("\n\n");
        rest = blocks.pop();
        for (const block of blocks) {
          const fields = Object.fromEntries(block.split("\n").filter((line) => line[0] !== ":").map((line) => line.split(/: (.*)/s)));
          if (fields.id) last = fields.id;
          if (fields.event === "end") isOver = true;
          else if (fields.event) handlers[fields.event]?.(JSON.parse(fields.data));
        }
      }
      handlers.connection?.(true);
    } catch (error) {
      if (error instanceof Problem && error.status < 500) throw error;
      handlers.connection?.(false);
    }
    if (!isOver) await new Promise((resolve) => setTimeout(resolve, 1500));
  }
}

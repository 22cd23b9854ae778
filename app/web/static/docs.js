// The API as a page: what openapi.json says, and a form to send each request. No library, nothing from elsewhere.
import { send, Problem } from "/static/api.js";
import { find, h } from "/static/parts.js";

const api = await (await fetch("/openapi.json")).json();
const resolve = (schema) => (schema?.$ref ? api.components.schemas[schema.$ref.split("/").pop()] : schema ?? {});
const text = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 1));

// Of Markdown what the descriptions use: `code`, **bold**, paragraphs and lists. Elements are made, never markup.
function inline(words) {
  return words.split(/(\*\*.+?\*\*|`[^`]+`)/s).filter(Boolean).map((part) => {
    if (part.startsWith("**")) return h("strong", {}, ...inline(part.slice(2, -2)));
    return part.startsWith("`") && part.length > 2 ? h("code", {}, part.slice(1, -1)) : part;
  });
}

function prose(description, className = null) {
  return (description ?? "").trim().split(/\n\s*\n/).filter(Boolean).map((block) => block.startsWith("- ")
    ? h("ul", {}, ...block.slice(2).split(/\n- /).map((item) => h("li", {}, ...inline(item))))
    : h("p", { class: className }, ...inline(block)));
}

function typeOf(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" or ");
  if (schema.enum || schema.const) return (schema.enum ?? [schema.const]).map((value) => JSON.stringify(value)).join(" ");
  if (schema.type === "array") return `list of ${typeOf(schema.items ?? {})}`;
  return schema.type ?? "anything";
}

// The fields of a schema, and below them those of the schemas it names.
function fieldTable(schema, seen = new Set()) {
  const whole = resolve(schema), rows = [], below = [];
  for (const [name, field] of Object.entries(whole.properties ?? {})) {
    const mark = whole.required?.includes(name) ? " *" : "";
    rows.push(h("tr", {}, h("td", {}, h("code", {}, name + mark)), h("td", {}, typeOf(field)), h("td", {}, ...inline(field.description ?? ""))));
    for (const reference of JSON.stringify(field).matchAll(/"#\/components\/schemas\/(\w+)"/g)) {
      if (seen.has(reference[1])) continue;
      seen.add(reference[1]);
      below.push(h("h4", {}, reference[1]), fieldTable(api.components.schemas[reference[1]], seen));
    }
  }
  return h("div", {}, rows.length ? h("div", { class: "scroll" }, h("table", {}, h("tbody", {}, ...rows))) : "", ...below);
}

function exampleOf(content) {
  return content.example ?? Object.values(content.examples ?? {})[0]?.value ?? resolve(content.schema).examples?.[0];
}

function answers(operation) {
  return Object.entries(operation.responses).map(([status, answer]) => {
    const [type, content] = Object.entries(answer.content ?? {})[0] ?? ["", {}];
    const example = exampleOf(content);
    return h("details", {}, h("summary", {}, h("code", {}, status), ` ${answer.description}`), h("p", { class: "faint" }, type),
      example === undefined ? "" : h("pre", {}, text(example)), status < 400 && content.schema ? fieldTable(content.schema) : "");
  });
}

function tryForm(method, path, operation) {
  const [type, content] = Object.entries(operation.requestBody?.content ?? {})[0] ?? [];
  const inputs = (operation.parameters ?? []).filter((one) => one.in !== "header")
    .map((one) => [one, h("input", { name: one.name, value: one.in === "path" ? one.example ?? "" : "", required: one.required ?? false })]);
  const isFile = type === "application/octet-stream";
  const body = type && (isFile ? h("input", { type: "file", required: true }) : h("textarea", { rows: "8", spellcheck: "false" }));
  if (type && !isFile) body.value = text(exampleOf(content) ?? {});
  const answer = h("div", { "aria-live": "polite" });
  const submit = async (event) => {
    event.preventDefault();
    let target = path;
    const query = new URLSearchParams();
    for (const [one, input] of inputs) {
      if (one.in === "path") target = target.replace(`{${one.name}}`, encodeURIComponent(input.value));
      else if (input.value) query.set(one.name, input.value);
    }
    const options = { method: method.toUpperCase(), headers: type ? { "Content-Type": type } : {} };
    if (type) options.body = isFile ? body.files[0] : body.value;
    try {
      const reply = await send(target + (query.size ? `?${query}` : ""), options);
      const content = await reply.text();
      let shown = content;
      try { shown = text(JSON.parse(content)); } catch { /* not JSON */ }
      answer.replaceChildren(h("p", {}, h("code", {}, reply.status)), h("pre", {}, shown.slice(0, 20000)));
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      answer.replaceChildren(h("p", {}, h("code", {}, error.status)), h("pre", {}, text(error.document)));
    }
  };
  return h("form", { onsubmit: submit }, ...inputs.map(([one, input]) => h("label", {}, one.name, " ", input)),
    type ? h("label", {}, `Body, ${type}`, body) : "", h("p", { class: "actions" }, h("button", {}, "Send")), answer);
}

function route(method, path, operation) {
  const scopes = operation.security?.[0]?.key;
  const [, content] = Object.entries(operation.requestBody?.content ?? {})[0] ?? [];
  const isStream = JSON.stringify(operation.responses).includes("text/event-stream");
  return h("details", { class: "card route", id: operation.operationId },
    h("summary", {}, h("code", {}, `${method.toUpperCase()} ${path}`), ` ${operation.summary}`),
    ...prose(operation.description),
    h("p", { class: "faint" }, scopes ? `Needs a key of scope ${scopes.join(" or ")}, unless the service is open.` : "Needs no key."),
    content?.schema?.properties || content?.schema?.$ref ? h("details", {}, h("summary", {}, "Fields of the body"), fieldTable(content.schema)) : "",
    h("h3", {}, "Answers"), ...answers(operation), isStream ? "" : h("h3", {}, "Try it"), isStream ? "" : tryForm(method, path, operation));
}

find("#docs-summary").append(`${api.info.title} ${api.info.version}`, ...prose(api.info.description, "lead"));
find("#routes").append(...Object.entries(api.paths).flatMap(([path, operations]) =>
  Object.entries(operations).map(([method, operation]) => route(method, path, operation))));

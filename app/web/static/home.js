// The first page: bring a table, see the models and the trainings.
import { ask, upload, Problem } from "/static/api.js";
import { number, reachStrip } from "/static/charts.js";
import { auditBlock, badge, count, every, find, gateButton, h, plain, say, sayProblem, stateBadge, toneOf, turnWords } from "/static/parts.js";

const place = find("#upload-answer"), zone = find("#drop"), input = find("#file");

async function bring(file, name) {
  say(place, `Reading and checking ${name} ...`);
  zone.classList.add("busy");
  try {
    const dataset = await upload(file, name);
    location.assign(`/page/data/${dataset.id}`);
  } catch (error) {
    const audit = error instanceof Problem ? error.document.audit : null;
    if (audit) place.replaceChildren(h("div", { class: "card bad", role: "alert" }, h("h2", {}, `${name} cannot be used yet`), auditBlock(audit)));
    else sayProblem(place, error);
  } finally { zone.classList.remove("busy"); }
}

input.addEventListener("change", () => { if (input.files[0]) bring(input.files[0], input.files[0].name); });
for (const kind of ["dragover", "dragenter"]) zone.addEventListener(kind, (event) => { event.preventDefault(); zone.classList.add("over"); });
for (const kind of ["dragleave", "drop"]) zone.addEventListener(kind, () => zone.classList.remove("over"));
zone.addEventListener("drop", (event) => { event.preventDefault(); const file = event.dataTransfer.files[0]; if (file) bring(file, file.name); });
for (const button of document.querySelectorAll("[data-example]")) {
  button.addEventListener("click", async () => {
    const answer = await fetch(button.dataset.example);
    bring(await answer.blob(), button.dataset.name);
  });
}

// What is wrong although forecasts are answered: a new version that cannot be loaded, a registry that is away.
async function showTrouble() {
  const state = await ask("/readyz").catch((error) => (error instanceof Problem ? error.document : {}));
  const troubles = (state.models ?? []).filter((model) => model.is_ready && model.last_error)
    .map((model) => `${model.name} goes on answering with version ${model.version}. ${model.last_error}`);
  if (state.source?.last_error) troubles.push(`The ${state.source.kind} does not answer; what was loaded before is served. ${state.source.last_error}`);
  find("#trouble").replaceChildren(...troubles.map((words) => h("p", { class: "say bad", role: "alert" }, words)));
}

async function showModels() {
  const host = find("#models");
  try {
    const { models } = await ask("/models");
    if (!models.length) { say(host, "No model yet. Bring a table above and train the first one."); return; }
    host.replaceChildren(...models.map(modelCard));
  } catch (error) { sayProblem(host, error); }
}

function modelCard(model) {
  const served = model.versions.find((version) => version.version === model.version);
  const sentence = h("p", { class: "lead" }), strip = h("div", { class: "strip" }), answer = h("div");
  const facts = model.is_ready ? `${plain(model.architecture)}, ${every(model.freq)}; looks ${count(model.context_length, "step")} back, forecasts ${count(model.horizon, "step")}.` : model.last_error ?? "Not loaded yet.";
  const card = h("article", { class: `card ${toneOf(model.verdict)}` },
    h("header", {}, h("h3", {}, model.name), badge(model.is_ready ? model.verdict ?? "no verdict" : "not loaded", toneOf(model.verdict))),
    sentence, strip, h("p", { class: "faint" }, facts),
    h("p", { class: "actions" }, served?.run_id ? h("a", { class: "button small", href: `/page/gradients/${served.run_id}` }, "How it learned") : null,
      model.last_error && model.is_ready ? h("span", { class: "faint" }, model.last_error) : null),
    model.shadow ? h("p", { class: "faint" }, shadowWords(model.shadow)) : null,
    model.versions.length ? versions(model, answer) : null, answer);
  if (served?.run_id) describe(served.run_id, sentence, strip);
  return card;
}

function shadowWords(shadow) {
  const names = `The challenger, version ${shadow.challenger_version}, forecasts in the shadow of version ${shadow.champion_version}`;
  if (!shadow.num_steps) return `${names}; what really came is not known yet.`;
  return `${names}. On ${count(shadow.num_steps, "step")} that have come since, the champion was off by ${number(shadow.champion_mae)} and the challenger by ${number(shadow.challenger_mae)} on average; the challenger was closer in ${shadow.num_wins} of ${count(shadow.num_forecasts, "forecast")}.`;
}

async function describe(run, sentence, strip) {
  try {
    const view = await ask(`/runs/${run}/gradients`);
    sentence.textContent = view.headline;
    reachStrip(strip, view);
  } catch { strip.remove(); sentence.remove(); }
}

function versions(model, answer) {
  const rows = [...model.versions].reverse().map((version) => h("tr", {}, h("td", {}, `version ${version.version}`),
    h("td", {}, badge(version.verdict ?? "unknown", toneOf(version.verdict))),
    h("td", {}, version.aliases.join(", ")),
    h("td", {}, version.run_id ? h("a", { href: `/page/gradients/${version.run_id}` }, "how it learned") : null),
    h("td", {}, version.aliases.includes("champion") ? h("span", { class: "faint" }, "serving") : gateButton(model.name, version.version, answer, () => setTimeout(showModels, 1500)))));
  return h("details", {}, h("summary", {}, count(model.versions.length, "version")), h("div", { class: "scroll" }, h("table", {}, h("tbody", {}, ...rows))));
}

async function showJobs() {
  const host = find("#jobs");
  try {
    const { jobs } = await ask("/jobs");
    find("#jobs-section").hidden = !jobs.length;
    host.replaceChildren(...jobs.slice(0, 12).map(jobRow));
    if (jobs.some((job) => job.state === "pending" || job.state === "running")) setTimeout(showJobs, 2500);
  } catch (error) { sayProblem(host, error); }
}

function jobRow(job) {
  const words = job.state === "running" && job.max_steps ? `step ${job.step.toLocaleString("en")} of ${job.max_steps.toLocaleString("en")}` : job.message ?? "";
  return h("li", {}, stateBadge(job.state), h("a", { href: `/page/jobs/${job.id}` }, job.model_name), h("span", { class: "faint" }, [`on ${job.dataset_name}`, turnWords(job)].filter(Boolean).join(", ")), h("span", {}, words));
}

async function showData() {
  const { datasets } = await ask("/datasets").catch(() => ({ datasets: [] }));
  find("#data-section").hidden = !datasets.length;
  find("#data").replaceChildren(...datasets.slice(0, 12).map((one) => h("li", {}, h("a", { href: `/page/data/${one.id}` }, one.name),
    h("span", { class: "faint" }, `${count(one.summary.rows ?? 0, "row")}, ${count(one.summary.series ?? 1, "series", "series")}, ${every(one.summary.freq)}`))));
}

showTrouble(); showModels(); showJobs(); showData();

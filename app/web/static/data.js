// One data set: what it holds, what served models forecast for it, and training on it.
import { ask } from "/static/api.js";
import { forecastChart } from "/static/charts.js";
import { auditBlock, count, find, forecast, h, say, sayProblem } from "/static/parts.js";

const id = document.body.dataset.id;
const chart = find("#chart"), seriesSelect = find("#series"), modelSelect = find("#model"), answer = find("#forecast-answer");
let preview = null, models = [];

async function start() {
  try {
    const dataset = await ask(`/datasets/${id}`);
    find("h1").textContent = dataset.name;
    find("#audit").replaceChildren(auditBlock(dataset));
    if (!find("#name").value) find("#name").value = dataset.name.split(".")[0].replace(/[^A-Za-z0-9_-]+/g, "_");
    preview = await ask(`/datasets/${id}/preview`);
    seriesSelect.replaceChildren(...preview.series.map((one, index) => h("option", { value: index }, one.unique_id)));
    find("#series-label").hidden = preview.series.length < 2;
    if (preview.num_series > preview.series.length) find("#series-note").textContent = `the first ${preview.series.length} of ${count(preview.num_series, "series", "series")}`;
    show();
    await offerModels();
  } catch (error) { sayProblem(find("#audit"), error); }
}

const chosen = () => preview.series[Number(seriesSelect.value || 0)];

function show(ahead = null) {
  const one = chosen();
  forecastChart(chart, { past: one, forecast: ahead, label: `${preview.target} of ${one.unique_id}` + (ahead ? ", with its forecast" : ", the last part") });
}

async function offerModels() {
  const listing = await ask("/models");
  const { jobs } = await ask("/jobs").catch(() => ({ jobs: [] }));
  const mine = jobs.filter((job) => job.dataset_id === id).map((job) => job.model_name);
  models = listing.models.filter((model) => model.is_ready && model.freq === preview.freq && model.time_kind === preview.time_kind && !model.columns.futr_exog.length && !model.columns.hist_exog.length && !model.columns.stat_exog.length);
  models.sort((a, b) => mine.includes(b.name) - mine.includes(a.name));  // those trained on this data first
  find("#with-models").hidden = !models.length;
  find("#without-models").hidden = Boolean(models.length);
  modelSelect.replaceChildren(...models.map((model, index) => h("option", { value: index }, `${model.name} (version ${model.version}, ${model.verdict ?? "no verdict"})`)));
}

async function ask_model() {
  const one = chosen(), model = models[Number(modelSelect.value)];
  say(answer, "Forecasting ...");
  try {
    const ahead = await forecast({ ...model, reference: model.name }, { unique_id: one.unique_id, ds: one.ds, y: one.y });
    show(ahead);
    const widest = ahead.bands[0];
    const words = widest ? `The shaded band holds the true values in about ${widest.level} of 100 cases, if the future is like the past.` : "";
    answer.replaceChildren(h("p", { class: "lead" }, words), ...ahead.warnings.map((warning) => h("p", { class: "faint" }, warning.message)));
  } catch (error) { sayProblem(answer, error); }
}

function settings() {
  const tree = {};
  const put = (dotted, value) => { const [section, key] = dotted.split("."); (tree[section] ??= {})[key] = value; };
  put("tracking.model_name", find("#name").value);
  if (find("#architecture").value) put("model.architecture", find("#architecture").value);
  for (const [selector, key] of [["#horizon", "model.horizon"], ["#steps", "fit.max_steps"]]) if (find(selector).value) put(key, Number(find(selector).value));
  for (const line of find("#settings").value.split("\n").map((text) => text.trim()).filter(Boolean)) {
    const [key, text] = line.split(/=(.*)/s);
    if (!/^[a-z]+\.[a-z_]+$/.test(key.trim()) || text === undefined) throw new Error(`"${line}" is not a setting: write section.key=value.`);
    let value = text.trim();
    try { value = JSON.parse(value); } catch { /* a word stands for itself */ }
    put(key.trim(), value);
  }
  return tree;
}

find("#train").addEventListener("submit", async (event) => {
  event.preventDefault();
  const place = find("#train-answer");
  try {
    const config = settings();
    say(place, "Starting ...");
    const job = await ask("/jobs", { dataset_id: id, config, promote: find("#promote").checked });
    location.assign(`/page/jobs/${job.id}`);
  } catch (error) { if (error.code || error instanceof TypeError) sayProblem(place, error); else say(place, error.message, "bad"); }
});
seriesSelect.addEventListener("change", () => { answer.replaceChildren(); show(); });
find("#forecast").addEventListener("click", ask_model);
const given = new URLSearchParams(location.search);
if (given.has("set")) { find("#settings").value = given.getAll("set").join("\n"); find("#more").open = true; find("#train").scrollIntoView(); }
if (given.has("name")) find("#name").value = given.get("name");
start();

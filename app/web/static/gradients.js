// How a run learned: layers by lag with a slider over the training, the lag curve against the need, findings in words.
import { ask } from "/static/api.js";
import { errorBars, heatMap, lagCurve, lineChart } from "/static/charts.js";
import { find, findingsBlock, h, sayProblem, settingLines, verdictBlock } from "/static/parts.js";

const id = document.body.dataset.id;
const TONES = ["ink", "blue", "red", "green", "amber", "faint"];
let timer = null;

async function start() {
  let view;
  try { view = await ask(`/runs/${id}/gradients`); } catch (error) { sayProblem(find("#verdict"), error); return; }
  const network = view.network;
  document.title = `How ${view.name} learned`;
  const layers = network.architecture === "linear" ? "" : `, ${network.num_layers} layer${network.num_layers === 1 ? "" : "s"} of ${network.hidden_size} units`;
  const linear = network.linear_share ? `, ${Math.round(100 * network.linear_share)} % of the forecast from a linear map` : "";
  const recurrent = network.recurrent_length ? ` (${network.recurrent_length.toLocaleString("en")} through its recurrence)` : "";
  find("#facts").textContent = `${network.architecture}${layers}${linear}; is shown ${network.context_length?.toLocaleString("en")} ${view.unit.many}${recurrent}, forecasts ${network.horizon?.toLocaleString("en")}; ${view.step.toLocaleString("en")} training steps. ${view.unit.note}`;
  find("#verdict").replaceChildren(verdictBlock(view, "h1"));
  showFlow(view);
  find("#arrival").textContent = view.arrival_sentence;
  const entries = Object.entries(view.norms).filter(([name]) => name !== "total");
  lineChart(find("#norms"), { label: "Size of the correction by layer", xLabel: "training step", log: true,
    series: entries.slice(0, 6).map(([name, series], index) => ({ name, points: pairs(series), tone: TONES[index] })) });
  lineChart(find("#losses"), { label: "Error while training", xLabel: "training step", series: [
    { name: "on the data it learns from", points: pairs(view.losses.train), tone: "blue" },
    { name: "on data held back", points: pairs(view.losses.val), tone: "red" }] });
  if (view.outcome) { find("#outcome-section").hidden = false; find("#outcome").textContent = view.outcome_sentence; errorBars(find("#errors"), view.outcome.errors); }
  const job = await findJob();
  find("#findings").replaceChildren(findingsBlock(view, job ? (set) => `/page/data/${job.dataset_id}?name=${encodeURIComponent(job.model_name)}&` + settingLines(set).map((line) => `set=${encodeURIComponent(line)}`).join("&") : null));
  await offerComparison();
}

const pairs = (series) => (series ? series.steps.map((step, index) => [step, series.values[index]]) : []);

function showFlow(view) {
  const flow = Object.values(view.flow)[0];
  find("#flow-section").hidden = !flow;
  if (!flow) return;
  const slider = find("#step"), output = find("#step-words"), play = find("#play");
  slider.max = flow.steps.length - 1;
  const show = () => {
    const position = Number(slider.value);
    output.textContent = `step ${flow.steps[position].toLocaleString("en")}`;
    slider.setAttribute("aria-valuetext", output.textContent);
    heatMap(find("#flow"), view, position);
    lagCurve(find("#curve"), view, position);
  };
  const stop = () => { clearInterval(timer); timer = null; play.textContent = "▶"; play.setAttribute("aria-label", "play"); };
  slider.value = flow.steps.length - 1;
  slider.addEventListener("input", () => { stop(); show(); });
  play.hidden = find("#slider").hidden = flow.steps.length < 2;
  play.addEventListener("click", () => {
    if (timer) { stop(); return; }
    if (Number(slider.value) >= flow.steps.length - 1) { slider.value = 0; show(); }
    play.textContent = "❚❚"; play.setAttribute("aria-label", "pause");
    timer = setInterval(() => { slider.value = Number(slider.value) + 1; show(); if (Number(slider.value) >= flow.steps.length - 1) stop(); }, 500);
  });
  show();
}

async function findJob() {
  const { jobs } = await ask("/jobs").catch(() => ({ jobs: [] }));
  return jobs.find((job) => job.id === id || job.run_id === id) ?? null;
}

async function offerComparison() {
  const [{ jobs }, { models }] = await Promise.all([ask("/jobs").catch(() => ({ jobs: [] })), ask("/models").catch(() => ({ models: [] }))]);
  const runs = new Map();
  for (const model of models) for (const version of model.versions) if (version.run_id) runs.set(version.run_id, `${model.name} version ${version.version}`);
  for (const job of jobs) if (job.verdict && !runs.has(job.run_id)) runs.set(job.id, `${job.model_name}, job of ${job.created_at.slice(0, 16).replace("T", " ")}`);
  runs.delete(id);
  const mine = jobs.find((job) => job.id === id);
  if (mine?.run_id) runs.delete(mine.run_id);
  find("#compare-section").hidden = !runs.size;
  find("#second").replaceChildren(...[...runs].map(([run, name]) => h("option", { value: run }, name)));
}

start();

// One training, live: loss, gradient norm, reach and verdict as they come.
import { ask, listen } from "/static/api.js";
import { errorBars, forecastChart, lineChart, needWord } from "/static/charts.js";
import { badge, decisionBlock, find, forecast, gateButton, h, sayProblem, STATES, stateBadge, turnWords, verdictBlock } from "/static/parts.js";

const id = document.body.dataset.id;
const points = new Map();
let job = null, view = null, isDrawn = false;

function take({ points: fresh, reset }) {
  if (reset !== null) for (const step of [...points.keys()]) if (step > reset) points.delete(step);
  for (const point of fresh) points.set(point.step, { ...points.get(point.step), ...point });
  if (!isDrawn) { isDrawn = true; requestAnimationFrame(draw); }
}

function column(name) {
  return [...points.values()].filter((point) => point[name] !== undefined).sort((a, b) => a.step - b.step).map((point) => [point.step, point[name]]);
}

function draw() {
  isDrawn = false;
  const xMax = job?.max_steps ?? view?.max_steps ?? null, xLabel = "training step";
  lineChart(find("#loss"), { label: "Error while training", xLabel, xMax, series: [
    { name: "on the data it learns from", points: column("loss"), tone: "blue" },
    { name: "on data held back", points: column("val_loss"), tone: "red" }] });
  lineChart(find("#norm"), { label: "Size of the correction in every step", xLabel, xMax, log: true, series: [{ name: "size", points: column("grad_norm"), tone: "green" }] });
  const need = view?.need_steps;
  lineChart(find("#reach"), { label: "How far back the learning signal reaches", xLabel, xMax, floor: 0,
    series: [{ name: view?.unit.many ?? "steps", points: column("reach"), tone: "blue" }],
    marks: need ? [{ y: need, words: `${needWord(view)}: ${need.toLocaleString("en")}` }] : [] });
  const step = Math.max(0, ...points.keys()), most = xMax ?? 0;
  const bar = find("#progress");
  if (most) { bar.max = most; bar.value = step; }
  const val = column("val_loss").map((point) => point[1]);
  find("#where").textContent = !points.size ? phase() : `Step ${step.toLocaleString("en")}${most ? ` of ${most.toLocaleString("en")}` : ""}.` + (val.length > 1 ? ` The error on data held back went from ${val[0].toPrecision(3)} to ${Math.min(...val).toPrecision(3)}.` : "");
}

function phase() {
  if (!job) return "";
  if (job.state === "pending") return job.num_attempts ? "It will be taken up again from its last checkpoint." : "It waits for a worker; the first one takes some seconds to start.";
  return job.state === "running" ? "Preparing: reading the data, choosing what was left open." : "";
}

function showView(fresh) {
  view = fresh;
  find("#verdict").replaceChildren(verdictBlock(view));
  draw();
}

async function showJob(fresh) {
  const hasEnded = !["pending", "running"].includes(fresh.state);
  job = fresh;
  find("h1").textContent = job.model_name;
  document.title = `${job.model_name}: ${STATES[job.state][0]}`;
  find("#state").replaceChildren(stateBadge(job.state));
  find("#turn").textContent = turnWords(job);
  find("#message").textContent = job.message ?? "";
  find("#cancel").hidden = hasEnded;
  find("#resume").hidden = !job.is_resumable;
  find("#learned").href = `/page/gradients/${id}`;
  find("#again").href = `/page/data/${job.dataset_id}`;
  draw();
  if (hasEnded) await showEnd().catch((error) => sayProblem(find("#result"), error));
}

async function showEnd() {
  const full = await ask(`/jobs/${id}`);
  find("#log").textContent = full.log.join("\n");
  find("#log-section").hidden = !full.log.length;
  if (full.state !== "succeeded") return;
  find("#end").hidden = false;
  if (view?.outcome) { find("#outcome").textContent = view.outcome_sentence; errorBars(find("#errors"), view.outcome.errors); }
  const place = h("div"), model = full.model;
  if (model) {
    const parts = [h("p", {}, `Registered as ${model.name} version ${model.version}. `, ...(full.promotion?.is_promoted ? ["champion"] : model.aliases).map((alias) => badge(alias, "good")))];
    if (full.promotion) parts.push(decisionBlock(full.promotion, model.name));
    else if (!model.aliases.includes("champion")) parts.push(gateButton(model.name, model.version, place));
    find("#result").replaceChildren(...parts, place);
    await showForecast(model, full.dataset_id);
  }
}

async function showForecast(model, dataset, patience = 40) {
  const place = find("#forecast");
  try {
    const [{ series }, listing] = await Promise.all([ask(`/datasets/${dataset}/preview`), ask("/models")]);
    const served = listing.models.find((one) => one.name === model.name && one.versions.some((version) => version.version === model.version));
    if (!served) throw new Error("not seen yet");
    const ahead = await forecast({ ...served, reference: `${model.name}/${model.version}` }, { unique_id: series[0].unique_id });
    find("#forecast-note").textContent = `${series[0].unique_id}: ` + (ahead.bands[0] ? `the widest band holds the true values in about ${ahead.bands[0].level} of 100 cases, if the future is like the past.` : "");
    forecastChart(place, { past: series[0], forecast: ahead, label: `Forecast of ${series[0].unique_id}` });
  } catch (error) {
    if (patience && (!error.code || ["model_not_found", "model_unavailable", "not_ready"].includes(error.code))) { find("#forecast-note").textContent = "The service is loading the new model ..."; setTimeout(() => showForecast(model, dataset, patience - 1), 1500); } else sayProblem(place, error);
  }
}

find("#cancel").addEventListener("click", async (event) => {
  event.target.disabled = true;
  find("#message").textContent = "Stopping after this step, with a checkpoint ...";
  try { await ask(`/jobs/${id}/cancel`, {}); } catch (error) { sayProblem(find("#note"), error); } finally { event.target.disabled = false; }
});
find("#resume").addEventListener("click", async () => {
  try { await ask(`/jobs/${id}/resume`, {}); location.reload(); } catch (error) { sayProblem(find("#note"), error); }
});

listen(`/jobs/${id}/events`, { progress: take, view: showView, job: showJob, connection: (isThere) => { find("#connection").hidden = isThere; } })
  .catch((error) => sayProblem(find("#note"), error));

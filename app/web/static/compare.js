// Two runs side by side: which forecasts better, what was set differently, and what the gradients did.
import { ask } from "/static/api.js";
import { lagCurve, lineChart, needWord, number } from "/static/charts.js";
import { find, h, plain, sayProblem, verdictBlock } from "/static/parts.js";

const ids = [document.body.dataset.first, document.body.dataset.second];
const pairs = (series) => (series ? series.steps.map((step, index) => [step, series.values[index]]) : []);

function conclusion([a, b]) {
  const [first, second] = [a, b].map((view) => view.outcome?.errors["this network"]);
  if (first === undefined || second === undefined || a.outcome.metric !== b.outcome.metric || a.network.horizon !== b.network.horizon) return "Which one forecasts better cannot be said: their errors were not measured alike.";
  if (first === second) return "Both forecast equally well.";
  const better = first < second ? "A" : "B", low = Math.min(first, second), high = Math.max(first, second);
  return `Run ${better} forecasts better: ${a.outcome.metric.toUpperCase()} ${number(low)} against ${number(high)}, ${Math.round(100 * (1 - low / high))} % lower.`;
}

function settings([a, b]) {
  const keys = [...new Set([...Object.keys(a.settings), ...Object.keys(b.settings)])];
  const rows = keys.filter((key) => JSON.stringify(a.settings[key]) !== JSON.stringify(b.settings[key]));
  if (!rows.length) return h("p", { class: "faint" }, "They were trained with the same settings.");
  return h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "setting"), h("th", {}, "A"), h("th", {}, "B"))),
    h("tbody", {}, ...rows.map((key) => h("tr", {}, h("td", {}, h("code", {}, key)), ...[a, b].map((view) => h("td", {}, plain(String(view.settings[key] ?? "chosen")))))))));
}

async function start() {
  try {
    const views = await Promise.all(ids.map((id) => ask(`/runs/${id}/gradients`)));
    const [a, b] = views;
    a.name = "A"; b.name = "B";
    find("h1").textContent = conclusion(views);
    find("#first").replaceChildren(h("p", { class: "which" }, h("span", { class: "key blue" }, "A"), " ", h("a", { href: `/page/gradients/${ids[0]}` }, "how it learned")), verdictBlock(a));
    find("#second").replaceChildren(h("p", { class: "which" }, h("span", { class: "key red" }, "B"), " ", h("a", { href: `/page/gradients/${ids[1]}` }, "how it learned")), verdictBlock(b));
    find("#settings").replaceChildren(settings(views));
    const last = (view) => (Object.values(view.flow)[0]?.steps.length ?? 1) - 1;
    const base = Object.keys(a.flow).length ? a : b;
    find("#curve-section").hidden = !Object.keys(base.flow).length;
    if (Object.keys(base.flow).length) lagCurve(find("#curve"), base, last(base), base === a && Object.keys(b.flow).length ? [{ view: b, position: last(b), tone: "red", name: "B" }] : []);
    const both = (select) => [{ name: "A", points: pairs(select(a)), tone: "blue" }, { name: "B", points: pairs(select(b)), tone: "red" }];
    lineChart(find("#losses"), { label: "Error on data held back", xLabel: "training step", series: both((view) => view.losses.val) });
    lineChart(find("#reaches"), { label: "How far back the learning signal reaches", xLabel: "training step", floor: 0, series: both((view) => Object.values(view.reach)[0]),
      marks: a.need_steps ? [{ y: a.need_steps, words: `${needWord(a)}: ${a.need_steps.toLocaleString("en")}` }] : [] });
  } catch (error) { sayProblem(find("#note"), error); }
}

start();

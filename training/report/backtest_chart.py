"""The interactive chart of a backtest report: plain SVG drawn by a small script, in the page's own colours."""

from __future__ import annotations

CHART_BODY = """
<div class="chart" id="chart">
  <div class="controls">
    <label>Series <select id="series"></select></label>
    <div class="slider"><button type="button" id="earlier" aria-label="earlier origin">◀</button>
      <input type="range" id="origin" min="0" value="0" aria-label="rolling origin">
      <button type="button" id="later" aria-label="later origin">▶</button>
      <output id="when" for="origin"></output></div>
  </div>
  <div class="legend" id="legend"></div>
  <div class="canvas" id="canvas" tabindex="0" role="img" aria-label="forecast beside what happened"></div>
  <p class="note" id="errors"></p>
</div>
"""

STEPS_BODY = """
<div class="chart"><div class="canvas" id="steps" role="img" aria-label="error by step ahead"></div></div>
"""

CHART_STYLE = """
.controls { display: flex; flex-wrap: wrap; gap: 10px 22px; align-items: center; }
.controls select { font: inherit; color: inherit; background: var(--page); border: 1px solid var(--line);
  border-radius: 8px; padding: 4px 8px; max-width: 60vw; }
.chart .slider { flex: 1 1 260px; flex-wrap: wrap; display: flex; gap: 8px; align-items: center; }
.chart .slider input { flex: 1; min-width: 80px; }
.chart .slider output { min-width: 0; font-variant-numeric: tabular-nums; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 12px 0 2px; font-size: 14px; }
.legend label { display: inline-flex; gap: 6px; align-items: center; cursor: pointer; }
.legend i { width: 18px; height: 0; border-top: 3px solid var(--hue); }
.legend i.band { height: 11px; border: 0; background: var(--hue); opacity: .3; border-radius: 2px; }
.canvas { position: relative; outline-offset: 4px; touch-action: pan-y; }
.canvas svg { display: block; width: 100%; overflow: visible; }
.canvas text { fill: var(--faint); font: 12px system-ui, sans-serif; }
.canvas .grid { stroke: var(--line); }
.canvas .cut { stroke: var(--faint); stroke-dasharray: 3 3; }
.canvas path { fill: none; stroke: var(--hue); stroke-width: 1.6; stroke-linejoin: round; }
.canvas path.band { fill: var(--hue); stroke: none; opacity: .16; }
.canvas path.model { stroke-width: 2.4; }
.canvas path.dash { stroke-dasharray: 5 3; }
.canvas .cursor { stroke: var(--ink); opacity: .5; }
.canvas circle { fill: var(--hue); }
.tip { position: absolute; top: 4px; pointer-events: none; background: var(--card); border: 1px solid var(--line);
  border-radius: 9px; box-shadow: var(--shadow); padding: 7px 11px; font-size: 13px; line-height: 1.45;
  white-space: nowrap; font-variant-numeric: tabular-nums; z-index: 2; }
.tip b { display: block; }
.tip span { display: flex; gap: 14px; justify-content: space-between; }
.tip span::before { content: ""; width: 8px; height: 8px; border-radius: 99px; background: var(--hue); align-self: center; }
.tip span em { flex: 1; font-style: normal; margin-left: -6px; }
@media print { .controls { display: none; } }
"""

CHART_SCRIPT = """
{
const data = JSON.parse(document.getElementById("backtest").textContent);
const HUES = ["var(--red)", "var(--green)", "var(--amber)", "var(--violet)", "var(--pink)", "var(--faint)"];
const hue = name => name === data.model ? "var(--blue)" : HUES[Math.max(0, data.baselines.indexOf(name)) % HUES.length];
const said = name => name.replaceAll("_", " ");
const number = value => value === null || value === undefined ? "missing"
  : Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3) ? value.toExponential(3)
  : value.toLocaleString("en", { maximumSignificantDigits: 4 });
const hidden = new Set(data.baselines.slice(3).concat(data.baselines.includes("naive") ? ["naive"] : []));
const by = id => document.getElementById(id);
const escaped = text => text.replace(/[&<>"]/g, sign => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[sign]);

function ticks(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].find(factor => factor * power >= raw) * power;
  const found = [];
  for (let k = Math.ceil(low / step); k * step <= high + step * 1e-9; k++) found.push(k * step + 0);
  return found;
}

// lines: [{name, first, values, kind}], bands: [{first, low, high}]; labels: text of every position; tip: position -> rows.
function draw(box, { labels, lines, bands, cut, tip }) {
  const width = Math.max(260, box.clientWidth), height = Math.min(380, Math.max(230, width * 0.46));
  const left = 56, right = 10, top = 10, bottom = 26;
  const all = lines.flatMap(line => line.values).concat(bands.flatMap(band => [...band.low, ...band.high]))
    .filter(value => value !== null);
  let low = Math.min(...all), high = Math.max(...all);
  if (!(high > low)) { const room = Math.abs(low) || 1; low -= room / 2; high += room / 2; }
  const pad = (high - low) * 0.05; low -= pad; high += pad;
  const last = Math.max(1, labels.length - 1);
  const x = position => left + (width - left - right) * position / last;
  const y = value => top + (height - top - bottom) * (high - value) / (high - low);
  const path = (first, values) => {
    let pen = false, text = "";
    values.forEach((value, k) => {
      if (value === null) { pen = false; return; }
      text += (pen ? "L" : "M") + x(first + k).toFixed(1) + " " + y(value).toFixed(1); pen = true;
    });
    return text;
  };
  let svg = "";
  for (const value of ticks(low, high, 5)) {
    svg += `<line class="grid" x1="${left}" x2="${width - right}" y1="${y(value)}" y2="${y(value)}"/>` +
      `<text x="${left - 7}" y="${y(value) + 4}" text-anchor="end">${number(value)}</text>`;
  }
  const wide = Math.max(...labels.map(label => label.length)) * 7 + 26;
  const marks = Math.max(1, Math.min(6, Math.floor((width - left - right) / wide / 1.5)));
  for (let k = 0; k <= marks; k++) {
    const position = Math.round(last * k / marks), anchor = k === 0 ? "start" : k === marks ? "end" : "middle";
    const place = `x="${x(position)}" y="${height - 7}" text-anchor="${anchor}"`;
    if (labels[position]) svg += `<text ${place}>${labels[position]}</text>`;
  }
  for (const band of bands) {
    const back = [...band.high].reverse(), count = band.high.length;
    const forward = path(band.first, band.low);
    const returned = back.map((value, k) => "L" + x(band.first + count - 1 - k).toFixed(1) + " " + y(value).toFixed(1)).join("");
    svg += `<path class="band" style="--hue:var(--blue)" d="${forward}${returned}Z"/>`;
  }
  if (cut !== null) svg += `<line class="cut" x1="${x(cut)}" x2="${x(cut)}" y1="${top}" y2="${height - bottom}"/>`;
  for (const line of lines) {
    svg += `<path class="${line.kind}" style="--hue:${line.hue}" d="${path(line.first, line.values)}"/>`;
  }
  box.innerHTML = `<svg viewBox="0 0 ${width} ${height}" height="${height}">${svg}<g class="hover"></g></svg>` +
    `<div class="tip" hidden></div>`;
  const hover = box.querySelector(".hover"), note = box.querySelector(".tip");
  box.onpointerleave = () => { hover.innerHTML = ""; note.hidden = true; };
  box.onpointermove = event => {
    const at = event.clientX - box.getBoundingClientRect().left;
    const position = Math.max(0, Math.min(last, Math.round((at - left) / (width - left - right) * last)));
    const rows = tip(position);
    if (!rows.length) { box.onpointerleave(); return; }
    hover.innerHTML = `<line class="cursor" x1="${x(position)}" x2="${x(position)}" y1="${top}" y2="${height - bottom}"/>` +
      rows.filter(row => typeof row.value === "number").map(row =>
        `<circle r="3.5" style="--hue:${row.hue}" cx="${x(position)}" cy="${y(row.value)}"/>`).join("");
    note.innerHTML = `<b>${labels[position]}</b>` + rows.map(row =>
      `<span style="--hue:${row.hue}"><em>${escaped(row.name)}</em>${row.text ?? number(row.value)}</span>`).join("");
    note.hidden = false;
    const place = x(position) + 14;
    note.style.left = (place + note.offsetWidth > width ? Math.max(0, x(position) - note.offsetWidth - 14) : place) + "px";
  };
}

function drawWindow() {
  const series = data.series[by("series").value], window_ = series.windows[by("origin").value];
  const first = Math.max(0, window_.cutoff - series.history), stop = window_.cutoff + window_.point.length;
  const labels = series.times.slice(first, stop), y = series.y.slice(first, stop), cut = window_.cutoff - first;
  const names = data.baselines.filter(name => !hidden.has(name));
  const bands = data.bands.map(band => ({ ...band, first: cut,
    low: window_.quantiles[band.low], high: window_.quantiles[band.high] }));
  const lines = names.map(name => ({ first: cut, values: window_.baselines[name], kind: "dash", hue: hue(name) }));
  lines.push({ first: 0, values: y, kind: "actual", hue: "var(--ink)" });
  lines.push({ first: cut, values: window_.point, kind: "model", hue: "var(--blue)" });
  draw(by("canvas"), {
    labels, lines, bands, cut: cut - 0.5,
    tip: position => {
      const rows = [{ name: data.target + ", actual", value: y[position], hue: "var(--ink)" }], step = position - cut;
      if (step < 0) return rows;
      rows.push({ name: data.model + ", median", value: window_.point[step], hue: "var(--blue)" });
      for (const band of bands) rows.push({ name: band.percent + " % interval", hue: "var(--blue)",
        text: number(band.low[step]) + " to " + number(band.high[step]) });
      for (const name of names) rows.push({ name: said(name), value: window_.baselines[name][step], hue: hue(name) });
      return rows;
    },
  });
  by("when").textContent = "known to " + (series.times[window_.cutoff - 1] ?? "the start");
  const error = forecast => {
    const sizes = forecast.map((value, k) => y[cut + k] === null || value === null ? null : Math.abs(y[cut + k] - value))
      .filter(size => size !== null);
    return sizes.length ? sizes.reduce((sum, size) => sum + size, 0) / sizes.length : null;
  };
  const errors = [[data.model, window_.point], ...data.baselines.map(name => [name, window_.baselines[name]])]
    .map(([name, forecast]) => said(name) + " " + number(error(forecast)));
  by("errors").textContent = "Mean absolute error of this window: " + errors.join(", ") + ".";
}

function chooseSeries() {
  const count = data.series[by("series").value].windows.length, origin = by("origin");
  origin.max = count - 1; origin.value = count - 1;
  by("origin").parentElement.hidden = count < 2;
  drawWindow();
}

function move(by_) { const origin = by("origin"); origin.value = Number(origin.value) + by_; drawWindow(); }

data.series.forEach((series, index) => by("series").add(new Option(series.id, index)));
by("series").parentElement.hidden = data.series.length < 2;
by("series").addEventListener("change", chooseSeries);
by("origin").addEventListener("input", drawWindow);
by("earlier").addEventListener("click", () => move(-1));
by("later").addEventListener("click", () => move(1));
by("canvas").addEventListener("keydown", event => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step) { event.preventDefault(); move(step); }
});
const legend = [["var(--ink)", data.target + ", actual", ""], ["var(--blue)", data.model + ", median", ""]]
  .map(([colour, text]) => `<span style="--hue:${colour}"><label><i></i>${escaped(text)}</label></span>`);
if (data.bands.length) legend.push(`<span style="--hue:var(--blue)"><label><i class="band"></i>${
  data.bands.map(band => band.percent).join(" and ")} % interval</label></span>`);
by("legend").innerHTML = legend.join("") + data.baselines.map(name =>
  `<label style="--hue:${hue(name)}"><input type="checkbox" value="${name}"${hidden.has(name) ? "" : " checked"}><i></i>${
    escaped(said(name))}</label>`).join("");
by("legend").addEventListener("change", event => {
  hidden[event.target.checked ? "delete" : "add"](event.target.value); drawWindow(); drawSteps();
});

function drawSteps() {
  const names = Object.keys(data.steps).filter(name => !hidden.has(name)), count = data.steps[data.model].length;
  const labels = Array.from({ length: count }, (_, k) => "step " + (k + 1));
  draw(by("steps"), {
    labels, bands: [], cut: null,
    lines: names.map(name => ({ first: 0, values: data.steps[name], hue: hue(name),
      kind: name === data.model ? "model" : "dash" })),
    tip: position => names.map(name => ({ name: said(name), value: data.steps[name][position], hue: hue(name) })),
  });
}
chooseSeries(); drawSteps();
let resized = null;
addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(() => { drawWindow(); drawSteps(); }, 80); });
}
"""

// Charts as inline SVG in the page's own colours: no library, no styles in markup, nothing fetched.
const NS = "http://www.w3.org/2000/svg";
const REACH_DECADE = -3;

export function node(tag, attributes = {}, ...children) {
  const element = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

export function number(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return power(value);
  return Number(value.toPrecision(digits)).toLocaleString("en", { maximumFractionDigits: 6 });
}

const SUPERSCRIPTS = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

function raised(exponent) {
  return "10" + String(exponent).split("").map((letter) => SUPERSCRIPTS[letter]).join("");
}

function power(value) {
  const [mantissa, exponent] = value.toExponential(1).split("e");
  const short = mantissa.replace(/\.0$/, "");
  return (short === "1" ? "" : short + "·") + raised(Number(exponent));
}

// Draws now, and again whenever the width of its place changes; a newer drawing replaces an older one.
const drawings = new WeakMap();
const observer = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const drawing = drawings.get(target);
    const width = Math.round(target.clientWidth);
    if (drawing && width && width !== drawing.width) { drawing.width = width; drawing.draw(width); }
  }
});

function place(host, draw) {
  const width = Math.max(260, Math.round(host.clientWidth || 600));
  drawings.set(host, { draw: (size) => draw(Math.max(260, size)), width });
  draw(width);
  observer.observe(host);
}

function niceTicks(low, high, count) {
  const span = high - low || Math.abs(high) || 1;
  const rough = span / count;
  const base = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * base).find((size) => size >= rough);
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-9; tick += step) ticks.push(Number(tick.toPrecision(12)));
  return ticks;
}

function logTicks(low, high, most = 5) {
  const first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(high) + 1e-9);
  const stride = Math.max(1, Math.ceil((last - first + 1) / most));
  const ticks = [];
  for (let decade = first; decade <= last; decade += stride) ticks.push(10 ** decade);
  return ticks;
}

function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) if (Number.isFinite(value)) { low = Math.min(low, value); high = Math.max(high, value); }
  return low <= high ? [low, high] : [0, 1];
}

function path(points, x, y) {
  let text = "", pen = "M";
  for (const [a, b] of points) {
    if (b === null || !Number.isFinite(b)) { pen = "M"; continue; }
    text += `${pen}${x(a).toFixed(1)} ${y(b).toFixed(1)}`;
    pen = "L";
  }
  return text;
}

function frame(host, width, height, label) {
  const drawing = node("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label });
  const old = host.querySelector("svg");
  if (old) old.replaceWith(drawing); else host.append(drawing);
  return drawing;
}

function text(x, y, words, attributes = {}) {
  return node("text", { x: x.toFixed(1), y: y.toFixed(1), ...attributes }, words);
}

function yAxis(drawing, ticks, y, left, right, form) {
  for (const tick of ticks) {
    drawing.append(node("line", { x1: left, x2: right, y1: y(tick), y2: y(tick), class: "grid" }));
    drawing.append(text(left - 7, y(tick) + 4, form(tick), { class: "tick", "text-anchor": "end" }));
  }
}

// Lines over a number. series: [{name, points: [[x, y]], tone, dashed}], marks: [{y, words}].
export function lineChart(host, { series, label, xLabel = "", log = false, marks = [], height = 220, xMax = null, floor = null }) {
  const shown = series.filter((one) => one.points.length);
  place(host, (width) => {
    const drawing = frame(host, width, height, label);
    const left = 54, right = width - 12, top = 12, bottom = height - 34;
    const usable = (value) => Number.isFinite(value) && (!log || value > 0);
    const values = shown.flatMap((one) => one.points.map((point) => point[1])).filter(usable);
    if (!values.length) {
      drawing.append(text(width / 2, height / 2, "nothing measured yet", { class: "tick", "text-anchor": "middle" }));
      return;
    }
    let [low, high] = extent([...values, ...marks.map((mark) => mark.y).filter(usable)]);
    if (floor !== null) low = Math.min(low, floor);
    if (low === high) { low -= Math.abs(low) * 0.1 || 1; high += Math.abs(high) * 0.1 || 1; if (log) low = high / 100; }
    const pad = log ? 0 : (high - low) * 0.06;
    [low, high] = log ? [low / 1.3, high * 1.3] : [floor === null ? low - pad : low, high + pad];
    const scale = log ? Math.log10 : (value) => value;
    const y = (value) => bottom - ((scale(value) - scale(low)) / (scale(high) - scale(low))) * (bottom - top);
    const [first, last] = extent(shown.flatMap((one) => one.points.map((point) => point[0])));
    const end = Math.max(xMax ?? last, first + 1);
    const x = (value) => left + ((value - first) / (end - first)) * (right - left);
    yAxis(drawing, log ? logTicks(low, high) : niceTicks(low, high, 4), y, left, right, (tick) => number(tick));
    for (const tick of niceTicks(first, end, width < 420 ? 3 : 6)) {
      if (tick >= first && tick <= end) drawing.append(text(x(tick), bottom + 17, tick.toLocaleString("en"), { class: "tick", "text-anchor": x(tick) > right - 20 ? "end" : "middle" }));
    }
    drawing.append(text(right, height - 3, xLabel, { class: "axis", "text-anchor": "end" }));
    for (const mark of marks.filter((one) => usable(one.y))) {
      drawing.append(node("line", { x1: left, x2: right, y1: y(mark.y), y2: y(mark.y), class: "mark" }));
      drawing.append(text(right, y(mark.y) - 5, mark.words, { class: "marked", "text-anchor": "end" }));
    }
    for (const one of shown) {
      const points = one.points.map(([a, b]) => [a, usable(b) ? b : null]);
      drawing.append(node("path", { d: path(points, x, y), class: `line ${one.tone}${one.dashed ? " dashed" : ""}` }));
      const [a, b] = points[points.length - 1];
      if (b !== null) drawing.append(node("circle", { cx: x(a).toFixed(1), cy: y(b).toFixed(1), r: 3, class: `dot ${one.tone}` }));
    }
    crosshair(drawing, shown, x, y, { left, right, top, bottom }, usable);
  });
  legend(host, shown);
}

function legend(host, series) {
  const old = host.querySelector(".legend");
  if (series.length < 2) { old?.remove(); return; }
  const list = document.createElement("p");
  list.className = "legend";
  for (const one of series) {
    const item = document.createElement("span");
    item.className = `key ${one.tone}${one.dashed ? " dashed" : ""}`;
    item.textContent = one.name;
    list.append(item);
  }
  if (old) old.replaceWith(list); else host.append(list);
}

function crosshair(drawing, series, x, y, box, usable) {
  const guide = node("line", { y1: box.top, y2: box.bottom, class: "guide", visibility: "hidden" });
  const words = text(0, box.top + 10, "", { class: "hint", visibility: "hidden" });
  drawing.append(guide, words);
  const hide = () => { guide.setAttribute("visibility", "hidden"); words.setAttribute("visibility", "hidden"); };
  drawing.addEventListener("pointerleave", hide);
  drawing.addEventListener("pointermove", (event) => {
    const at = event.clientX - drawing.getBoundingClientRect().left;
    if (at < box.left || at > box.right) { hide(); return; }
    const found = series.map((one) => [one, nearest(one.points, at, x)]).filter(([, point]) => point && usable(point[1]));
    if (!found.length) return;
    const where = x(found[0][1][0]);
    guide.setAttribute("x1", where); guide.setAttribute("x2", where);
    words.textContent = `${found[0][1][2] ?? found[0][1][0].toLocaleString("en")}:  ` + found.map(([one, point]) => `${one.name} ${number(point[1])}`).join("   ");
    const leftSide = where < (box.left + box.right) / 2;
    words.setAttribute("x", leftSide ? where + 7 : where - 7);
    words.setAttribute("text-anchor", leftSide ? "start" : "end");
    for (const part of [guide, words]) part.setAttribute("visibility", "visible");
  });
}

function nearest(points, at, x) {
  let best = null, distance = Infinity;
  for (const point of points) {
    const gap = Math.abs(x(point[0]) - at);
    if (gap < distance) { best = point; distance = gap; }
  }
  return best;
}

function timeValue(ds) {
  return typeof ds === "number" ? ds : Date.parse(/[Z+]|-\d\d:\d\d$/.test(ds.slice(10)) ? ds : ds + "Z");
}

function timeWords(value, span, isInteger) {
  if (isInteger) return value.toLocaleString("en");
  const iso = new Date(value).toISOString();
  const day = 86_400_000;
  if (span > 3000 * day) return iso.slice(0, 4);
  if (span > 120 * day) return iso.slice(0, 7);
  return span > 4 * day ? iso.slice(5, 10) : iso.slice(5, 16).replace("T", " ");
}

// The past as a line, the forecast behind it with one or two shaded intervals.
export function forecastChart(host, { past, forecast = null, label, height = 300 }) {
  const isInteger = typeof past.ds[0] === "number";
  const points = past.ds.map((ds, index) => [timeValue(ds), past.y[index], String(ds).replace("T", " ").slice(0, 16)]);
  const ahead = forecast ? forecast.ds.map((ds, index) => [timeValue(ds), forecast.mean[index], String(ds).replace("T", " ").slice(0, 16)]) : [];
  const bands = forecast ? forecast.bands : [];
  place(host, (width) => {
    const drawing = frame(host, width, height, label);
    const left = 58, right = width - 12, top = 14, bottom = height - 26;
    const visible = forecast ? points.slice(-Math.max(3 * ahead.length, 120)) : points;
    const all = [...visible, ...ahead];
    const [first, last] = extent(all.map((point) => point[0]));
    const [low, high] = extent([...all.map((point) => point[1] ?? NaN), ...bands.flatMap((band) => [...band.low, ...band.high])]);
    const pad = (high - low) * 0.07 || Math.abs(high) * 0.1 || 1;
    const x = (value) => left + ((value - first) / (last - first || 1)) * (right - left);
    const y = (value) => bottom - ((value - low + pad) / (high - low + 2 * pad)) * (bottom - top);
    yAxis(drawing, niceTicks(low - pad, high + pad, 4), y, left, right, (tick) => number(tick));
    const count = width < 480 ? 3 : 6;
    for (let index = 0; index < count; index++) {
      const value = first + ((index + 0.5) / count) * (last - first);
      const near = nearest(all, x(value), x)[0];
      drawing.append(text(x(near), bottom + 18, timeWords(near, last - first, isInteger), { class: "tick", "text-anchor": "middle" }));
    }
    if (ahead.length) {
      const from = x(visible[visible.length - 1][0]);
      drawing.append(node("rect", { x: from, y: top, width: right - from, height: bottom - top, class: "future" }));
      drawing.append(text(from + 6, top + 12, "forecast", { class: "axis" }));
    }
    for (const band of bands) {
      const upper = band.high.map((value, index) => [ahead[index][0], value]);
      const lower = band.low.map((value, index) => [ahead[index][0], value]).reverse();
      const outline = [...upper, ...lower].map(([a, b], index) => `${index ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("");
      drawing.append(node("path", { d: outline + "Z", class: "band" }));
    }
    drawing.append(node("path", { d: path(visible, x, y), class: "line ink" }));
    if (ahead.length) drawing.append(node("path", { d: path([visible[visible.length - 1], ...ahead], x, y), class: "line blue" }));
    const series = [{ name: "", points: visible, tone: "ink" }];
    if (ahead.length) series[0].points = [...visible, ...ahead];
    crosshair(drawing, series, x, y, { left, right, top, bottom }, (value) => Number.isFinite(value));
  });
}

// How strongly a decade of the gradient's share is coloured; beyond ten it grows, which is red.
function shade(decade) {
  if (decade === null) return { tone: "blue", opacity: 0 };
  if (decade > 1) return { tone: "red", opacity: Math.min(1, 0.5 + decade / 6) };
  const stops = [[-8, 0], [-7, 0.03], [-3, 0.3], [0, 0.95], [1, 1]];
  for (let index = 1; index < stops.length; index++) {
    const [high, end] = stops[index], [low, start] = stops[index - 1];
    if (decade <= high) return { tone: "blue", opacity: start + Math.max(0, (decade - low) / (high - low)) * (end - start) };
  }
  return { tone: "blue", opacity: 1 };
}

function lagAxis(drawing, lags, left, right, base, unit) {
  const low = Math.log(lags[0]) - 0.15, high = Math.log(lags[lags.length - 1]) + 0.15;
  const x = (lag) => left + ((Math.log(lag) - low) / (high - low || 1)) * (right - left);
  let free = -Infinity;
  for (const tick of [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000]) {
    if (tick < lags[0] || tick > lags[lags.length - 1] || x(tick) < free) continue;
    free = x(tick) + 34;
    drawing.append(text(x(tick), base + 17, tick.toLocaleString("en"), { class: "tick", "text-anchor": "middle" }));
  }
  drawing.append(text(right, base + 33, `${unit} back from the forecast →`, { class: "axis", "text-anchor": "end" }));
  return x;
}

// Data that gains nothing from memory needs none, whatever the smallest context is.
export const needWord = (view) => (view.need && !view.need.is_shown ? "enough" : "needed");

function needLine(drawing, x, view, lags, top, bottom, left, right) {
  const need = view.need_steps;
  if (!need || need < lags[0]) return;
  const inside = need <= lags[lags.length - 1], words = `${needWord(view)}: ${need.toLocaleString("en")}`;
  const where = inside ? x(need) : right;
  if (inside) drawing.append(node("line", { x1: where, x2: where, y1: top, y2: bottom, class: "mark" }));
  const leftSide = where < (left + right) / 2;
  drawing.append(text(leftSide ? where + 5 : where - 5, top - 4, inside ? words : `${words}, beyond what it is shown →`,
    { class: "marked", "text-anchor": leftSide ? "start" : "end" }));
}

// Layers by lag at one measured step of the training.
export function heatMap(host, view, position) {
  const layers = Object.values(view.flow);
  const lags = layers[0].lags;
  const rowHeight = layers.length > 4 ? 26 : 36;
  place(host, (width) => {
    const top = 22, left = Math.max(70, 24 + 7 * Math.max(...layers.map((layer) => layer.label.length))), right = width - 12, bottom = top + layers.length * (rowHeight + 4);
    const drawing = frame(host, width, bottom + 40, heatWords(view, position));
    const x = lagAxis(drawing, lags, left, right, bottom, view.unit.many);
    const edges = lags.map((lag, index) => (index ? (x(lags[index - 1]) + x(lag)) / 2 : left));
    edges.push(right);
    layers.forEach((layer, row) => {
      const y = top + row * (rowHeight + 4);
      const decades = layer.decades[Math.min(position, layer.decades.length - 1)];
      drawing.append(text(left - 9, y + rowHeight / 2 + 4, layer.label, { class: "axis", "text-anchor": "end" }));
      drawing.append(node("rect", { x: left, y, width: right - left, height: rowHeight, class: "row", rx: 3 }));
      decades.forEach((decade, index) => {
        const { tone, opacity } = shade(decade);
        const cell = node("rect", { x: edges[index].toFixed(1), y, width: (edges[index + 1] - edges[index] + 0.4).toFixed(1), height: rowHeight, class: `cell ${tone}`, "fill-opacity": opacity.toFixed(3) });
        cell.append(node("title", {}, `${layer.label}, ${lags[index]} ${view.unit.many} back: ${shareWords(decade)}`));
        drawing.append(cell);
      });
    });
    needLine(drawing, x, view, lags, top, bottom - 4, left, right);
  });
}

function heatWords(view, position) {
  const first = Object.values(view.flow)[0];
  const decades = first.decades[Math.min(position, first.decades.length - 1)];
  return `Learning signal by layer and by how far back, step ${first.steps[Math.min(position, first.steps.length - 1)]}: ${shareWords(decades[decades.length - 1])} at ${first.lags[first.lags.length - 1]} ${view.unit.many} back`;
}

function shareWords(decade) {
  if (decade === null) return "not measured";
  if (decade <= -7.9) return "nothing arrives";
  const share = 10 ** decade;
  return share > 10 ? `grows ${number(share, 2)}-fold` : share >= 0.95 ? "all of it arrives" : `${number(share, 2)} of it arrives`;
}

// The share that arrives over how far back, on logarithmic axes, against the need.
export function lagCurve(host, view, position, others = []) {
  const all = [{ view, position, tone: "blue", name: view.name }, ...others];
  const layer = Object.values(view.flow)[0];
  place(host, (width) => {
    const height = 260, left = 58, right = width - 12, top = 22, bottom = height - 42;
    const drawing = frame(host, width, height, heatWords(view, position));
    const lags = all.flatMap((one) => Object.values(one.view.flow)[0]?.lags ?? []).sort((a, b) => a - b);
    const x = lagAxis(drawing, lags.length ? lags : layer.lags, left, right, bottom, view.unit.many);
    const highest = Math.max(1, ...all.flatMap((one) => Object.values(one.view.flow)[0]?.decades.flat() ?? []).map((decade) => decade ?? 0));
    const y = (decade) => bottom - ((Math.max(decade, -8.3) + 8.3) / (highest + 8.8)) * (bottom - top);
    yAxis(drawing, [-7, -5, -3, -1, 0, ...(highest > 1 ? [Math.floor(highest)] : [])], y, left, right, (tick) => (tick === 0 ? "all" : raised(tick)));
    drawing.append(node("line", { x1: left, x2: right, y1: y(REACH_DECADE), y2: y(REACH_DECADE), class: "limit" }));
    drawing.append(text(right, y(REACH_DECADE) + 14, width < 480 ? "too faint to learn from" : "below a thousandth: too faint to learn from", { class: "axis", "text-anchor": "end" }));
    for (const one of all) {
      const flow = Object.values(one.view.flow)[0];
      if (!flow) continue;
      const draw = (decades, style) => {
        const points = flow.lags.map((lag, index) => [lag, decades[index]]);
        const gone = points.findIndex(([, decade]) => decade !== null && decade <= -7.99);
        drawing.append(node("path", { d: path(gone < 0 ? points : points.slice(0, gone + 1), x, y), class: `line ${style}` }));
      };
      const at = Math.min(one.position, flow.decades.length - 1);
      if (at > 0 && !others.length) draw(flow.decades[0], "faint dashed");
      draw(flow.decades[at], one.tone);
    }
    needLine(drawing, x, view, lags.length ? lags : layer.lags, top, bottom, left, right);
  });
  legend(host, others.length ? all : all[0].position > 0 ? [{ name: "now", tone: "blue" }, { name: "at the start", tone: "faint", dashed: true }] : []);
}

// One bar: the past from now to as far back as matters, fading as the learning signal does, with reach and need marked.
let stripCount = 0;
export function reachStrip(host, view) {
  const flow = Object.values(view.flow ?? {})[0];
  const reach = view.typical_reach ?? view.reach_steps, need = view.need_steps;
  if (!flow || reach === null) { host.replaceChildren(); return; }
  place(host, (width) => {
    const top = 24, bar = 30, height = top + bar + 40;
    const context = flow.lags[flow.lags.length - 1], whole = Math.max(context, need ?? 0);
    const count = (steps) => `${steps.toLocaleString("en")} ${steps === 1 ? view.unit.one : view.unit.many}`;
    const drawing = frame(host, width, height, `The learning signal reaches ${count(reach)} back` + (need ? `; the data pays back to ${count(need)}` : ""));
    const x = (lag) => 1 + (Math.min(lag, whole) / whole) * (width - 2);
    drawing.append(node("rect", { x: 1, y: top, width: width - 2, height: bar, rx: 6, class: "row" }));
    const decades = flow.decades[flow.decades.length - 1];
    const name = `fade-${(stripCount += 1)}`;
    const fade = node("linearGradient", { id: name });
    flow.lags.forEach((lag, index) => {
      const share = decades[index] === null ? 0 : Math.min(1, Math.max(0, 1 + decades[index] / 3.5));
      fade.append(node("stop", { offset: (lag / context).toFixed(4), class: "stop", "stop-opacity": share.toFixed(3) }));
    });
    drawing.append(node("defs", {}, fade));
    drawing.append(node("rect", { x: 1, y: top, width: (x(context) - 1).toFixed(1), height: bar, rx: 6, fill: `url(#${name})` }));
    const flag = (steps, words, tone, base) => {
      const where = Math.min(Math.max(x(steps), 2), width - 2);
      drawing.append(node("line", { x1: where, x2: where, y1: top - 5, y2: top + bar + 5, class: `flag ${tone}` }));
      const leftSide = where > width / 2;
      drawing.append(text(leftSide ? where - 6 : where + 6, base, words, { class: `flagged ${tone}`, "text-anchor": leftSide ? "end" : "start" }));
    };
    if (need) flag(need, `${needWord(view)}: ${count(need)}`, "red", top + bar + 19);
    flag(reach, reach >= context ? "learns from all it is shown" : `learns from ${count(reach)}`, "ink", top - 9);
    drawing.append(text(1, height - 3, "now", { class: "tick" }), text(width - 1, height - 3, `${count(whole)} back`, { class: "tick", "text-anchor": "end" }));
  });
}

// Errors as bars, shorter is better; the network's own stands out.
export function errorBars(host, errors) {
  const rows = Object.entries(errors).filter(([, error]) => Number.isFinite(error)).sort((a, b) => a[1] - b[1]);
  const largest = Math.max(...rows.map(([, error]) => error), 1e-12);
  place(host, (width) => {
    const height = rows.length * 28 + 4, left = 24 + 6.6 * Math.max(...rows.map(([name]) => name.length));
    const drawing = frame(host, width, height, "Forecast errors: " + rows.map(([name, error]) => `${name} ${number(error)}`).join(", "));
    rows.forEach(([name, error], index) => {
      const y = index * 28 + 2, own = name === "this network";
      drawing.append(text(left - 10, y + 16, name, { class: own ? "own" : "axis", "text-anchor": "end" }));
      const length = Math.max(2, (error / largest) * (width - left - 64));
      drawing.append(node("rect", { x: left, y: y + 2, width: length, height: 20, rx: 4, class: own ? "bar blue" : "bar" }));
      drawing.append(text(left + length + 8, y + 17, number(error), { class: own ? "own" : "tick" }));
    });
  });
}

// What several pages show: elements, verdicts, audits, the gate.
import { ask, Problem } from "/static/api.js";
import { number, reachStrip } from "/static/charts.js";

// An element with properties and children; texts are always texts, never markup.
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (value === true) element.setAttribute(name, "");
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const find = (selector) => document.querySelector(selector);
export const count = (value, one, many = one + "s") => `${value.toLocaleString("en")} ${value === 1 ? one : many}`;
export const plain = (word) => (word ?? "").replaceAll("_", " ");

export function say(place, words, tone = "") {
  place.replaceChildren(h("p", { class: `say ${tone}`, role: tone === "bad" ? "alert" : "status" }, words));
}

export function sayProblem(place, error) {
  say(place, error instanceof Problem ? error.message : "The service does not answer. Is it running?", "bad");
}

const TONES = { healthy: "good", inconclusive: "unsure" };
export const toneOf = (verdict) => (verdict ? TONES[verdict] ?? "bad" : "unsure");

export function badge(words, tone) {
  return h("span", { class: `badge ${tone}` }, plain(words));
}

export const STATES = {
  pending: ["waiting", "unsure"], running: ["running", "live"], succeeded: ["done", "good"], failed: ["failed", "bad"],
  cancelled: ["stopped", "unsure"],
};

/** Who asked for a job, as far as this key may know, and when its turn comes. */
export function turnWords(job) {
  const place = job.place ? (job.place === 1 ? "next in the queue" : `place ${job.place} in the queue`) : "";
  return [job.user && job.user !== "anonymous" ? `by ${job.user}` : "", place].filter(Boolean).join(", ");
}

export function stateBadge(state) {
  return badge(...STATES[state]);
}

// The verdict in a sentence above the bar that shows it.
export function verdictBlock(view, level = "h2") {
  const strip = h("div", { class: "strip" });
  const block = h("div", { class: `verdict ${view.tone}` },
    h("p", {}, badge(view.verdict, view.tone), view.is_preliminary ? h("span", { class: "faint" }, ` so far, at step ${view.step.toLocaleString("en")}`) : ""),
    h(level, {}, view.headline), h("p", { class: "lead" }, view.explanation), strip);
  queueMicrotask(() => reachStrip(strip, view));
  return block;
}

export function findingsBlock(view, trainAgain = null) {
  if (!view.findings.length) return h("p", { class: "faint" }, "None of the rules found anything to report.");
  return h("div", {}, ...view.findings.map((finding) => h("article", { class: `finding ${finding.severity}` },
    h("h3", {}, finding.title, " ", badge(finding.severity, { fault: "bad", warning: "unsure", info: "" }[finding.severity])),
    h("p", {}, finding.message),
    h("p", { class: "faint" }, `${finding.where}, step ${finding.step.toLocaleString("en")}: ${number(finding.value)}, limit ${number(finding.threshold)}`),
    finding.severity === "info" ? null : remedies(finding.remedies, trainAgain))));
}

function remedies(list, trainAgain) {
  if (!list.length) return null;
  return h("ul", { class: "remedies" }, ...list.map((remedy) => h("li", {},
    h("span", {}, remedy.why[0].toUpperCase() + remedy.why.slice(1), ": ", h("code", {}, settingLines(remedy.set).join("  "))),
    trainAgain ? h("a", { class: "button small", href: trainAgain(remedy.set) }, "Train again with this") : null)));
}

export const settingLines = (settings) => Object.entries(settings).map(([key, value]) => `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`);

const PERIODS = { s: "second", min: "minute", h: "hour", D: "day", B: "business day", W: "week", MS: "month", ME: "month", QS: "quarter", QE: "quarter", YS: "year", YE: "year" };

export function every(freq) {
  const [, times, code] = /^(\d*)([A-Za-z]+)/.exec(freq ?? "") ?? [];
  const word = PERIODS[code];
  if (!word) return "one value per step";
  return times && times !== "1" ? `one value every ${times} ${word}s` : `one value per ${word}`;
}

// The audit in sentences: what the file holds, then what was found, with the line to look at.
export function auditBlock(audit) {
  const summary = audit.summary, counts = audit.counts;
  const facts = [];
  if (summary.rows !== undefined && summary.start) {
    facts.push(`${count(summary.rows, "row")} in ${count(summary.series ?? 1, "series", "series")}, ${every(summary.freq)}, from ${String(summary.start).slice(0, 10)} to ${String(summary.end).slice(0, 10)}.`);
    if (summary.missing_y) facts.push(`${count(summary.missing_y, "value")} missing.`);
  }
  if (summary.columns) facts.push(`Read as: ${summary.columns}.`);
  const verdict = counts.error ? ["Something must be corrected first", "bad"] : counts.warning ? ["Usable, with remarks", "unsure"] : ["Checked: nothing wrong", "good"];
  return h("div", {}, h("p", {}, badge(...verdict)), h("p", {}, facts.join(" ")),
    audit.problems.length ? h("ul", { class: "problems" }, ...audit.problems.map((problem) => h("li", { class: problem.severity },
      h("b", {}, where(problem)), problem.message, problem.fix ? h("span", { class: "faint" }, ` ${problem.fix}`) : null))) : null);
}

function where(problem) {
  const parts = [problem.series !== null ? `series ${problem.series}` : null, problem.row !== null ? `line ${problem.row}` : null].filter(Boolean);
  return parts.length ? parts.join(", ") + ": " : "";
}

// Asks the gate; a refusal is shown with its reasons and a way around it that takes a reason.
export function gateButton(name, version, place, done = () => {}) {
  const promote = async (override = null) => {
    say(place, "Asking the gate: it compares both versions on the same part of the data ...");
    try {
      const answer = await ask(`/models/${encodeURIComponent(name)}/promote`, override === null ? { version } : { version, override });
      place.replaceChildren(decisionBlock(answer, name));
      done();
    } catch (error) {
      const decision = error instanceof Problem ? error.document.decision : null;
      if (!decision) { sayProblem(place, error); return; }
      place.replaceChildren(decisionBlock(decision, name), overrideForm(promote));
    }
  };
  return h("button", { type: "button", class: "small", onclick: () => promote() }, "Make champion");
}

export function decisionBlock(decision, name) {
  const words = decision.is_promoted ? `Version ${decision.version} is now the champion of ${name}.` : `The gate keeps the present champion of ${name}.`;
  return h("div", { class: `decision ${decision.is_promoted ? "good" : "bad"}`, role: "status" }, h("p", {}, h("b", {}, words)),
    h("ul", {}, ...decision.reasons.map((reason) => h("li", {}, reason))),
    decision.override ? h("p", {}, `Promoted all the same: ${decision.override}`) : null);
}

function overrideForm(promote) {
  const reason = h("input", { type: "text", minlength: 3, maxlength: 500, required: true, placeholder: "Reason, kept with the version", "aria-label": "Reason for overriding the gate" });
  return h("form", { class: "row", onsubmit: (event) => { event.preventDefault(); promote(reason.value); } }, reason,
    h("button", { type: "submit", class: "small" }, "Promote all the same"));
}

// What the model says of a series, with its intervals as bands: the widest first.
export async function forecast(model, series) {
  const levels = (model.quantile_levels ?? []).filter((level) => level < 0.5 && model.quantile_levels.some((other) => Math.abs(other + level - 1) < 1e-9)).map((level) => Math.round(100 - 200 * level));
  const answer = await ask("/forecast", { model: model.reference, level: levels, series: [series] });
  const found = answer.forecasts[0];
  if (found.error) throw new Problem(422, { detail: found.error.message });
  const bands = levels.sort((a, b) => b - a).map((level) => ({ level, low: found.intervals[`lo-${level}`], high: found.intervals[`hi-${level}`] }));
  return { ds: found.ds, mean: found.mean, bands, warnings: found.warnings };
}

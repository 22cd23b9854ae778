"""Building blocks of the HTML reports: one self-contained page that works offline, on paper, and in the dark."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from html import escape

import matplotlib as mpl
from matplotlib.figure import Figure

# A figure's colours become the page's, so that it follows a dark theme.
_THEME = {"#222222": "var(--ink)", "#6b6b6b": "var(--faint)", "#e4e4e4": "var(--line)", "#ffffff": "var(--on-colour)",
          "#0072b2": "var(--blue)", "#d55e00": "var(--red)", "#009e73": "var(--green)"}  # fmt: skip
_PROLOGUE = re.compile(r"^.*?(?=<svg)", re.DOTALL)
_METADATA = re.compile(r"\s*<metadata>.*?</metadata>", re.DOTALL)
_IDENTIFIER = re.compile(r'(\bid="|href="#|url\(#)')


def figure_to_svg(figure: Figure, name: str, description: str) -> str:
    """A figure as inline SVG in the page's own colours and fonts.

    Args:
        figure: To be drawn; its background becomes transparent.
        name: Plain word, unique on the page.
        description: What a screen reader says in its place.
    """
    buffer = io.StringIO()
    # Text stays text, for the page's font and for copying; the salt makes equal figures equal files.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None}, dpi=120)
    svg = _METADATA.sub("", _PROLOGUE.sub("", buffer.getvalue()))
    # Several figures share one page, and matplotlib gives each the same identifiers.
    svg = _IDENTIFIER.sub(rf"\g<1>{name}-", svg)
    for colour, variable in _THEME.items():
        svg = svg.replace(colour, variable)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1).strip()


def figure_block(svg: str, caption: str) -> str:
    """A picture with its caption; wide pictures scroll on narrow screens instead of shrinking beyond reading."""
    return f'<figure><div class="picture">{svg}</div><figcaption>{escape(caption)}</figcaption></figure>'


def slider_block(frames: Sequence[tuple[int, str]], name: str, caption: str) -> str:
    """Pictures of several steps behind one slider; without scripts the last is shown.

    Args:
        frames: Optimizer step and picture, steps increasing.
        name: Plain word, unique on the page.
        caption: One sentence.
    """
    last = len(frames) - 1
    pictures = "".join(
        f'<div class="frame" data-step="{step:,}"{"" if index == last else " hidden"}>{svg}</div>'
        for index, (step, svg) in enumerate(frames)
    )
    control = ""
    if last > 0:
        control = (
            f'<div class="slider"><button type="button" aria-label="play">▶</button>'
            f'<input type="range" id="{name}" min="0" max="{last}" value="{last}" aria-label="optimizer step">'
            f'<output for="{name}">step {frames[-1][0]:,}</output></div>'
        )
    picture = f'<div class="picture">{pictures}</div><figcaption>{escape(caption)}</figcaption>'
    return f'<figure class="frames">{control}{picture}</figure>'


def section(title: str, body: str, lead: str = "") -> str:
    """A headed part of the page; empty if there is nothing in it."""
    if not body:
        return ""
    return f"<section><h2>{escape(title)}</h2>{f'<p class=lead>{escape(lead)}</p>' if lead else ''}{body}</section>"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain texts, escaped here."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def tile(label: str, value: str, note: str = "", tone: str = "") -> str:
    """One number with what it is and what to hold it against."""
    return (
        f'<div class="tile {tone}"><div class="label">{escape(label)}</div><div class="value">{escape(value)}</div>'
        f'<div class="note">{escape(note)}</div></div>'
    )


def command_block(command: str) -> str:
    """A command line with a button that copies it."""
    # An option and its value stay on one line; spaces between them are part of what is copied.
    words = " ".join(f"<span>{escape(part)}</span>" for part in re.split(r" (?=--)", command))
    return f'<div class="command"><code>{words}</code><button type="button">copy</button></div>'


def details(summary: str, body: str) -> str:
    """A part that is folded away."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def html_page(title: str, body: str, style: str = "", script: str = "") -> str:
    """The whole document: no request leaves it, also if a text in it tried to; `style` and `script` are added to the page's."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        f"<script>{_SCRIPT}{script}</script>\n</body>\n</html>\n"
    )


_STYLE = """
:root { --page: #f6f7f9; --card: #fff; --ink: #1c2430; --faint: #5d6875; --line: #e2e6eb; --blue: #0072b2;
  --red: #c85200; --green: #00805d; --amber: #8a5a00;
  --violet: #7a4fb5; --pink: #b0427d; --on-colour: #fff; --code: #eef1f5; --shadow: 0 1px 3px
    #1c243014; }
@media (prefers-color-scheme: dark) { :root { --page: #12161c; --card: #1b212a; --ink: #e8ecf1; --faint: #9aa6b4;
  --line: #323b47; --blue: #4aa8e0; --red: #ff8f4d; --green: #3fcf9f; --amber: #eab54a;
  --violet: #b794f0; --pink: #f08cc0; --on-colour: #0c1116;
  --code: #252d38; --shadow: none; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto,
  "Helvetica Neue", Arial, sans-serif; }
main { max-width: 980px; margin: 0 auto; padding: 20px 20px 60px; }
header { display: flex; flex-wrap: wrap; gap: 2px 18px; align-items: baseline; color: var(--faint); font-size: 14px;
  margin-bottom: 14px; }
header b { color: var(--ink); }
section, .hero { background: var(--card); border: 1px solid var(--line); border-radius: 14px; box-shadow:
  var(--shadow);
  padding: 22px 26px; margin: 0 0 18px; }
.hero { border-top: 5px solid var(--tone); padding-top: 20px; }
.good { --tone: var(--green); }
.bad { --tone: var(--red); }
.unsure { --tone: var(--amber); }
.badge { display: inline-block; color: var(--tone); border: 1.5px solid var(--tone); border-radius: 99px; padding:
  1px 12px;
  font-weight: 650; font-size: 14px; }
h1 { font-size: clamp(23px, 3.6vw, 33px); line-height: 1.2; margin: 12px 0 10px; letter-spacing: -.012em; text-wrap:
  balance; }
h2 { font-size: 20px; margin: 0 0 6px; }
h3 { font-size: 16px; margin: 22px 0 4px; }
p { margin: 6px 0; max-width: 74ch; }
.lead, figcaption, .note, .label { color: var(--faint); }
.notice { border-left: 4px solid var(--amber); padding: 4px 12px; margin: 12px 0; color: var(--ink); }
.strip { margin: 24px 0 8px; }
.strip .bar { position: relative; height: 34px; border-radius: 6px; border: 1px solid var(--line); }
.strip .bar .fill { position: absolute; inset: 0 auto 0 0; border-radius: 5px; overflow: hidden; }
.strip .marks { position: relative; height: 24px; font-size: 14px; }
.strip .marks span { position: absolute; white-space: nowrap; }
.strip .marks .left { transform: translateX(-100%); }
.strip .mark { position: absolute; top: -7px; bottom: -7px; width: 3px; margin-left: -1.5px; border-radius: 2px;
  background: var(--mark); }
.strip .reach { --mark: var(--ink); color: var(--ink); }
.strip .need { --mark: var(--red); color: var(--red); }
.strip .marks b { font-weight: 650; }
.strip .ends { display: flex; justify-content: space-between; font-size: 13px; color: var(--faint); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(175px, 1fr)); gap: 12px; margin: 18px 0 4px; }
.tile { background: var(--page); border-radius: 10px; padding: 12px 14px; }
.tile .label { font-size: 13px; }
.tile .value { font-size: 24px; font-weight: 650; line-height: 1.25; }
.note { font-size: 14px; }
.tile .note { font-size: 13px; }
.tile.bad .value { color: var(--red); }
.tile.good .value { color: var(--green); }
.command { display: flex; gap: 8px; background: var(--code); border-radius: 8px; padding: 9px 12px; margin: 6px 0
  4px; align-items: start; }
.command code { flex: 1; min-width: 0; }
.command span { display: inline-block; max-width: 100%; overflow-wrap: anywhere; }
code { font: 13.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
button { font: inherit; font-size: 13px; color: var(--ink); background: var(--card); border: 1px solid var(--line);
  border-radius: 6px; padding: 1px 10px; cursor: pointer; }
ol.remedies { padding-left: 22px; margin: 8px 0; }
ol.remedies li { margin: 12px 0; }
figure { margin: 18px 0 6px; }
figcaption { font-size: 14px; max-width: 80ch; margin-top: 4px; }
.picture { overflow-x: auto; }
.picture svg { display: block; width: 100%; height: auto; min-width: 520px; max-width: 860px; }
.picture svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif !important; }
.slider { display: flex; gap: 12px; align-items: center; margin: 4px 0 8px; }
.slider input { flex: 1; max-width: 520px; accent-color: var(--blue); }
.slider output { min-width: 8em; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; color: var(--faint); font-weight: 600; }
th, td { padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td { font-variant-numeric: tabular-nums; }
th:nth-child(n + 5):last-child { min-width: 250px; }
th:nth-child(2) { min-width: 110px; }
.bars { display: grid; grid-template-columns: max-content 1fr max-content; gap: 6px 12px; align-items: center;
  font-size: 14px; margin: 10px 0; }
.bars i { display: block; height: 16px; border-radius: 4px; background: var(--line); }
.bars i.own { background: var(--blue); }
.bars .own { font-weight: 650; }
details { margin: 8px 0; }
summary { cursor: pointer; color: var(--faint); }
dl { display: grid; grid-template-columns: minmax(120px, max-content) 1fr; gap: 8px 20px; margin: 8px 0; }
dt { font-weight: 650; }
dd { margin: 0; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 16px; }
.pair .hero { margin: 0 0 18px; }
.pair h1 { font-size: 21px; }
footer { color: var(--faint); font-size: 13px; }
@media (max-width: 640px) { main { padding: 12px 10px 40px; } section, .hero { padding: 16px 15px; } .pair {
  grid-template-columns: 1fr; gap: 0; }
  .strip .marks { font-size: 13px; } dl { grid-template-columns: 1fr; gap: 2px; } dd { margin-bottom: 8px; }
  .tiles { grid-template-columns: 1fr 1fr; gap: 8px; } .tile { padding: 9px 11px; } .tile .value { font-size: 20px;
    } }
@media print { body { background: #fff; } section, .hero { break-inside: avoid; box-shadow: none; } button, .slider
  { display: none; } }
"""

_SCRIPT = """
for (const figure of document.querySelectorAll("figure.frames")) {
  const frames = [...figure.querySelectorAll(".frame")], input = figure.querySelector("input");
  if (!input) continue;
  const output = figure.querySelector("output"), play = figure.querySelector("button");
  const show = () => {
    frames.forEach((frame, index) => { frame.hidden = index !== Number(input.value); });
    output.textContent = "step " + frames[Number(input.value)].dataset.step;
  };
  let timer = null;
  const stop = () => { clearInterval(timer); timer = null; play.textContent = "▶"; };
  input.addEventListener("input", () => { stop(); show(); });
  play.addEventListener("click", () => {
    if (timer) { stop(); return; }
    if (Number(input.value) === frames.length - 1) { input.value = 0; show(); }
    play.textContent = "❚❚";
    timer = setInterval(() => {
      input.value = Number(input.value) + 1; show();
      if (Number(input.value) === frames.length - 1) stop();
    }, 450);
  });
}
for (const button of document.querySelectorAll(".command button")) {
  button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code");
    try { await navigator.clipboard.writeText(code.textContent); button.textContent = "copied"; }
    catch { getSelection().selectAllChildren(code); button.textContent = "selected"; }
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  });
}
"""

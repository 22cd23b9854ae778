"""The description of a run and of a registered version: verdict first, then the numbers, then how to use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from models.bundle import BundleManifest
from training.gradients.verdict import Verdict

SHOWN_METRICS = ("mae", "rmse", "mase", "wql", "coverage_80")


def write_model_card(
    manifest: BundleManifest, verdict: Verdict, name: str, notes: tuple[str, ...], checks: Sequence[str] = ()
) -> str:
    """Markdown for people who find the model in the dashboard.

    Args:
        manifest: What the model is and how good it was.
        verdict: What its gradients say.
        name: Its name in the registry.
        notes: What was chosen for the user.
        checks: What else was found about data and forecasts.
    """
    network = manifest.network
    parts = [
        f"# {name}",
        _verdict_section(verdict),
        (
            f"**{network.architecture}** forecasts `{manifest.target}` {network.horizon} steps ahead from "
            f"{network.context_length} past steps of `{manifest.freq}` data; {manifest.num_series} series, "
            f"trained until {manifest.trained_until}."
        ),
        _origin_sentences(manifest),
        _metrics_section(manifest),
        _columns_section(manifest),
    ]
    if checks:
        parts.append("## Checks\n" + "\n".join(f"- {check}" for check in checks))
    if notes:
        parts.append("## Chosen from the data\n" + "\n".join(f"- `{note}`" for note in notes))
    parts.append(
        "## Use\n"
        "```bash\n"
        f"gradcast forecast --model {name} --data FILE\n"
        f"gradcast serve --model {name}\n"
        f"mlflow models serve -m models:/{name}@champion --env-manager local\n"
        "```"
    )
    return "\n\n".join(part for part in parts if part)


def _verdict_section(verdict: Verdict) -> str:
    lines = [f"## Gradient verdict: {verdict.verdict}"]
    for finding in verdict.findings:
        lines.append(f"- **{finding.severity}** at `{finding.where}`, step {finding.step}: {finding.message}")
        for remedy in finding.remedies:
            settings = " ".join(f"--set {key}={value}" for key, value in remedy.set.items())
            lines.append(f"  - Remedy: {remedy.why}: `{settings}`")
    if not verdict.findings:
        lines.append(
            "No rule found a fault: every weight matrix received a finite gradient, the loss did not diverge, and the "
            "validation error is at most a tenth above a linear model's wherever that beats the naive forecast."
        )
    if verdict.reach_steps is None:
        lines.append("\nHow far the gradient reaches back in time was not measured.")
    elif verdict.need_steps is not None:
        lines.append(f"\nThe gradient reaches {verdict.reach_steps} steps back; the data pays back to {verdict.need_steps}.")
    lines.append("\nEvidence in figures and words: [report](artifact:gradients/report.html).")
    return "\n".join(lines)


def _origin_sentences(manifest: BundleManifest) -> str:
    sentences = []
    if manifest.warm_start is not None:
        sentences.append(f"Training started from the weights of `{manifest.warm_start}`.")
    if manifest.final_fit_steps is not None:
        sentences.append(
            f"Final fit: trained once more on training, validation and test rows for the {manifest.final_fit_steps} steps that "
            "were chosen. The scores below are those of the fit that chose them; this network has no rows left to be measured on."
        )
    return " ".join(sentences)


def _metrics_section(manifest: BundleManifest) -> str:
    sections = []
    for part in ("val", "test"):
        model = {key: value for key, value in manifest.metrics.items() if key.startswith(f"{part}/")}
        if model:
            rows = {"this model": model} | manifest.baselines
            sections.append(_table("Validation" if part == "val" else "Test", part, rows))
    return "\n\n".join(sections)


def _table(title: str, part: str, rows: Mapping[str, Mapping[str, float | None]]) -> str:
    shown = [metric for metric in SHOWN_METRICS if any(f"{part}/{metric}" in row for row in rows.values())]
    lines = [f"## {title} (rolling origins)", "| | " + " | ".join(shown) + " |", "|---|" + "---:|" * len(shown)]
    for label, row in rows.items():
        cells = [_cell(row.get(f"{part}/{metric}")) for metric in shown]
        lines.append(f"| {label.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _columns_section(manifest: BundleManifest) -> str:
    columns = manifest.columns
    roles = {
        "Known into the future": columns.futr_exog,
        "Known for the past": columns.hist_exog,
        "Constant per series": columns.stat_exog,
        "Calendar": columns.calendar,
    }
    lines = [f"- {role}: {', '.join(f'`{name}`' for name in names)}" for role, names in roles.items() if names]
    return "## Columns\n" + "\n".join(lines) if lines else ""

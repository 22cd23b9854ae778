"""`gradcast diagnose` as its user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.review.example_run import build_verdict, write_run
from training.cli import main
from training.config import TrackingConfig
from training.tracking.environment import open_client, resolve_uri


def diagnose(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run the verb; its exit code, stdout and stderr."""
    code = main(["diagnose", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_terminal_shows_verdict_reach_findings_and_commands(run_directory, capsys):
    """The sentence, both numbers, every finding and every remedy's command, in that order, without colours in a pipe."""
    code, out, err = diagnose(capsys, str(run_directory))
    assert (code, err) == (0, "")
    marks = [
        "VANISHING", "The network is told about only the last 32 of the 168 hours it needs.", "reach ", "need ",
        "2.8·10⁻¹⁷ of the correction arrives 168 hours back", "best simple method", "fault", "2.3·10⁻⁹ (limit 10⁻³)",
        "At lag 168", "info", f"gradcast train --config {run_directory}/config.yaml --set model.initialization=chrono",
    ]  # fmt: skip
    places = [out.index(mark) for mark in marks]
    assert places == sorted(places)
    assert "\x1b" not in out


def test_the_bars_stand_in_proportion(run_directory, capsys):
    """The bar of the reach is 32/168 of that of the need."""
    _, out, _ = diagnose(capsys, str(run_directory))
    filled = {line.split()[0]: line.count("█") for line in out.splitlines() if "█" in line}
    assert filled == {"reach": round(40 * 32 / 168), "need": 40}


def test_json_is_one_document_with_the_contracts_verdict(run_directory, capsys):
    """`gradients` is what `train --json` printed, and the remedies' commands stand beside it."""
    code, out, _ = diagnose(capsys, str(run_directory), "--json")
    document = json.loads(out)
    assert code == 0
    assert document["gradients"] == build_verdict().model_dump(mode="json")
    assert document["need"]["steps"] == 168
    assert document["outcome"]["baseline_error"]["seasonal_naive"] == 0.7
    assert document["curves"]["stack"]["3"] == 1.0
    assert len(document["commands"]) == 2


def test_html_writes_the_report(run_directory, tmp_path, capsys):
    """The file holds the page; its folder is made, and where it is, is said on stderr."""
    target = tmp_path / "new" / "report.html"
    code, out, err = diagnose(capsys, str(run_directory), "--html", str(target), "--json")
    assert code == 0
    assert target.read_text("utf-8").startswith("<!doctype html>")
    assert str(target) in err
    json.loads(out)


def test_two_runs_are_compared(run_directory, tmp_path, capsys):
    """Two names print both side by side, as text, JSON and page."""
    other = write_run(tmp_path / "other")
    target = tmp_path / "both.html"
    code, out, _ = diagnose(capsys, str(run_directory), str(other), "--html", str(target))
    assert code == 0
    assert "Both forecast equally well" in out
    assert "They were trained with the same settings." in out
    assert "Two runs side by side" in target.read_text("utf-8")
    _, out, _ = diagnose(capsys, str(run_directory), str(other), "--json")
    assert [Path(run["run"]).name for run in json.loads(out)["runs"]] == ["bike", "other"]


def test_the_newest_run_is_diagnosed_by_default(tmp_path, monkeypatch, capsys):
    """Without a name it is the newest under `runs/`."""
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "only")
    code, out, _ = diagnose(capsys)
    assert code == 0
    assert "only, 300 steps, finished" in out


def test_fail_on_unhealthy_is_exit_code_4(run_directory, capsys):
    """A script can stop at an unhealthy run, and only if it asks to."""
    assert diagnose(capsys, str(run_directory), "--fail-on", "unhealthy")[0] == 4
    healthy = build_verdict().model_copy(update={"verdict": "healthy", "findings": ()})
    (run_directory / "gradients" / "verdict.json").write_text(healthy.model_dump_json(), encoding="utf-8")
    assert diagnose(capsys, str(run_directory), "--fail-on", "unhealthy")[0] == 0


@pytest.mark.parametrize("words", [["nowhere"], [], ["a", "b", "c"]])
def test_a_mistake_is_exit_code_2_and_a_sentence(tmp_path, monkeypatch, capsys, words):
    """No such run, no run at all, or too many of them."""
    monkeypatch.chdir(tmp_path)
    code, out, err = diagnose(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith("gradcast diagnose: ")
    assert "Traceback" not in err


def test_a_recorded_run_is_fetched_by_its_id_or_its_models_name(run_directory, tmp_path, monkeypatch, capsys):
    """Elsewhere, a run is diagnosed from what the tracking store kept of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    uri = f"sqlite:///{tmp_path}/store/mlflow.db"
    client = open_client(resolve_uri(TrackingConfig(uri=uri)))
    experiment = client.create_experiment("e", (tmp_path / "artifacts").as_uri())
    run_id = client.create_run(experiment).info.run_id
    client.log_artifact(run_id, str(run_directory / "config.yaml"))
    client.log_artifacts(run_id, str(run_directory / "gradients"), "gradients")
    code, out, _ = diagnose(capsys, run_id, "--tracking-uri", uri)
    assert code == 0
    assert "only the last 32 of the 168 hours" in out
    client.create_registered_model("bike")
    client.create_model_version("bike", f"runs:/{run_id}/bundle", run_id)
    client.set_registered_model_alias("bike", "champion", "1")
    code, out, _ = diagnose(capsys, "models:/bike@champion", "--tracking-uri", uri, "--json")
    assert code == 0
    assert json.loads(out)["gradients"]["reach_steps"] == 32
    bare = client.create_run(experiment).info.run_id
    assert diagnose(capsys, bare, "--tracking-uri", uri)[0] == 2
    assert diagnose(capsys, "0" * 32, "--tracking-uri", uri)[0] == 2

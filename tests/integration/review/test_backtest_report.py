"""The backtest report: what it holds is what was forecast, and it works in a browser without asking anybody."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from training.backtest import run_backtest
from training.config import DataConfig
from training.data.panel import build_panel
from training.data.splits import build_splits
from training.data.windows import WindowStore
from training.origins import build_origins
from training.report.backtest_data import chart_document, choose_windows
from training.report.backtest_page import render_backtest_report

HORIZON = 6
LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
HOSTILE = '</script><img src=x onerror=alert(1)> & "b"'


@pytest.fixture(scope="module")
def result():
    """Two series, one of them with gaps and a hostile name, from four origins each."""
    hours, frames = np.arange(150), []
    for number, name in enumerate(("a", HOSTILE)):
        y = 20 * (number + 1) + 5 * np.sin(2 * np.pi * hours / 24) + np.random.default_rng(number).normal(0, 1, 150)
        y[[140, 141]] = np.nan if number else y[[140, 141]]
        ds = pd.date_range("2024-01-10", periods=150, freq="h")
        frames.append(pd.DataFrame({"unique_id": name, "ds": ds, "y": y}))
    config = DataConfig(freq="h", season_length=24, calendar="none", target_col="load")
    panel = build_panel(pd.concat(frames, ignore_index=True), config, horizon=HORIZON)
    store, splits = WindowStore(panel, 24, HORIZON), build_splits(panel, HORIZON, 12, 24)

    def predict(series, cutoff):
        yesterday = store.gather(series, cutoff).inputs.context[:, :HORIZON]
        return yesterday[..., None] + torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])

    origins = build_origins(panel, splits, "test", HORIZON)
    return run_backtest(predict, panel, store, splits, origins, LEVELS)


def test_every_number_of_the_chart_is_the_forecast_beside_its_own_truth(result):
    """For each window the drawn cutoff, quantiles, baselines and actual values are those of the result, to five digits."""
    document = chart_document(result, "lstm")
    window = 0
    for series in document["series"]:
        for drawn in series["windows"]:
            span = slice(drawn["cutoff"], drawn["cutoff"] + HORIZON)
            truth = [None if not seen else value for value, seen in zip(result.y[window], result.observed[window], strict=True)]
            assert series["y"][span] == [None if v is None else pytest.approx(float(v), rel=1e-4) for v in truth]
            np.testing.assert_allclose(np.array(drawn["quantiles"]).T, result.quantiles[window], rtol=1e-4)
            np.testing.assert_allclose(drawn["baselines"]["naive"], result.baseline_forecasts["naive"][window], rtol=1e-4)
            window += 1
    assert window == len(result.origins) == 8
    assert [band["percent"] for band in document["bands"]] == ["80", "50"]


def test_a_large_backtest_is_thinned_to_its_first_and_last_origins(result, monkeypatch):
    """Within a budget for three windows of two series, each keeps its first and last; with one number left, one window stays."""
    width = HORIZON * (1 + len(LEVELS) + len(result.baseline_forecasts))
    monkeypatch.setattr("training.report.backtest_data.MAX_NUMBERS", 5 * width)
    kept = choose_windows(result)
    assert set(result.origins.series[kept]) == {0}
    assert {0, 3} <= set(kept.tolist())
    monkeypatch.setattr("training.report.backtest_data.MAX_NUMBERS", 1)
    assert len(choose_windows(result)) == 1


def test_a_name_in_the_data_stays_text(result):
    """A series called like a script ends neither the data block nor a table cell."""
    page = render_backtest_report(result, "lstm")
    block = re.search(r'<script type="application/json" id="backtest">(.*?)</script>', page, re.DOTALL)
    assert block is not None
    assert json.loads(block[1])["series"][1]["id"] == HOSTILE
    assert "<img" not in page


def test_the_sentence_on_top_names_the_best_baseline_and_whether_it_may_be_luck(result):
    """Four origins of a forecast equal to seasonal naive: compared with the best baseline, and said with its chance."""
    page = render_backtest_report(result, "lstm", ["two of the origins lie in the training rows"])
    best = min(result.baselines, key=lambda name: result.baselines[name]["mase"])
    assert f"those of the best baseline, {best.replace('_', ' ')}" in page
    assert "two of the origins lie in the training rows" in page
    badge = "may be luck" if result.tests[best].p_value >= 0.05 else "worse"
    assert f'<span class="badge">{badge}</span>' in page


@pytest.mark.browser
@pytest.mark.parametrize("width", [1200, 390])
def test_the_page_works_in_a_browser_without_a_request_or_a_complaint(result, tmp_path, width):
    """Series and origins can be chosen, values are shown where the pointer is, and nothing is wider than the screen."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium is installed")
    report = tmp_path / "report.html"
    report.write_text(render_backtest_report(result, "lstm"), encoding="utf-8")
    events: list[str] = []
    with playwright.sync_playwright() as started:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = started.chromium.launch(executable_path=path, args=arguments)
        page = browser.new_page(viewport={"width": width, "height": 900})
        for kind in ("console", "pageerror", "request"):
            page.on(kind, lambda event: events.append(getattr(event, "url", None) or str(event)))
        page.goto(report.as_uri())
        last = page.locator("#when").inner_text()
        page.locator("#earlier").click()
        before = page.locator("#when").inner_text()
        page.locator("#series").select_option(index=1)
        canvas = page.locator("#canvas")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        page.mouse.move(box["x"] + box["width"] - 12, box["y"] + box["height"] / 2)
        shown = page.locator("#canvas .tip").inner_text()
        overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        browser.close()
    assert (last, before) == ("known to 2024-01-15 23:00", "known to 2024-01-15 17:00")
    median = next(line for line in shown.splitlines()[shown.splitlines().index("lstm, median") + 1 :])
    assert float(median) == pytest.approx(float(result.point[-1, -1]), rel=1e-3)
    assert overflow <= 0
    assert events == [report.as_uri()]

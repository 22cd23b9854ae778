"""The report is one page that needs nothing, shows the numbers it was given, and trusts no text in them."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser

import pytest

from tests.integration.review.example_run import NEED, REACH, STEPS, build_review
from training.config import build_config
from training.gradients.evidence import Evidence
from training.gradients.readings import Readings
from training.gradients.verdict import Verdict
from training.report.comparison import (
    comparison_rows,
    comparison_to_dict,
    conclusion,
    differing_settings,
    write_comparison,
)
from training.report.document import write_report, write_report_files
from training.report.review import RunReview
from training.report.tables import measurement_rows, norm_columns

VOID = {"meta", "input", "br", "path", "use", "image", "rect"}


class Outline(HTMLParser):
    """Text, identifiers and outside references of a page; fails on tags that do not match."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.ids, self.references, self.scripts = [], [], [], [], 0

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids += [values["id"]] if "id" in values else []
        self.references += [values[key] for key in ("src", "href", "xlink:href", "action") if key in values]
        self.scripts += tag == "script"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text.append(data)


def outline(page):
    parsed = Outline()
    parsed.feed(page)
    parsed.close()
    assert parsed.open == []
    return parsed


def words_of(page):
    return re.sub(r"\s+", " ", " ".join(outline(page).text))


def with_fields(review, **changes):
    return RunReview(**(vars(review) | changes))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The example's report, written once for all tests that only read it."""
    return write_report(build_review(tmp_path_factory.mktemp("report") / "absent"))


def test_the_first_screen_is_the_verdict_in_plain_words(page):
    """Before anything else the page says what the network is told of what it needs."""
    text = words_of(page)
    start = text.index(f"The network is told about only the last {REACH} of the {NEED} hours it needs.")
    assert (
        start
        < text.index("What to do")
        < text.index("What shows it")
        < text.index("All findings")
        < text.index("Words")
    )


def test_the_page_needs_nothing_from_outside(page):
    """No reference leaves the page, a policy forbids requests, and it is small enough to be mailed."""
    outside = [reference for reference in outline(page).references if not reference.startswith(("#", "data:"))]
    assert outside == []
    assert "default-src 'none'" in page
    assert "@import" not in page
    assert len(page) < 2_000_000


def test_texts_of_the_run_are_escaped(review):
    """A name or message with markup is shown, not obeyed."""
    page = write_report(with_fields(review, name="<img src=x onerror=alert(2)>"))
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert outline(page).scripts == 1
    assert "<script>alert(1)</script>" in words_of(page)


def test_identifiers_are_unique(page):
    """Figures of one page do not share clip paths or anything else by accident."""
    ids = outline(page).ids
    assert len(ids) == len(set(ids))


def test_numbers_shown_are_numbers_given(page):
    """Reach, need, ratio, error and baselines appear as they are in verdict, readings and evidence."""
    text = words_of(page)
    for fact in ("32 hours", "168 hours", "2.8·10⁻¹⁷", "1.4", "0.7", "2.3·10⁻⁹", "10⁻³", "that is the data's season"):
        assert fact in text, fact


def test_remedies_are_commands_to_paste(page):
    """Each remedy is one command in a shell's own quoting, the deepest cause's first."""
    commands = [
        unescape(re.sub(r"<[^>]+>", "", command)) for command in re.findall(r'class="command"><code>(.*?)</code>', page)
    ]
    assert commands[0] == "gradcast train --set model.initialization=chrono --set model.num_layers=1"
    assert (
        commands[1] == "gradcast train --set fit.max_grad_norm=null --set 'tracking.run_name=a <b> & '\"'\"'c'\"'\"''"
    )
    assert commands[-1] == "gradcast train --set gradients.on_fault=heal"


def test_the_slider_has_a_picture_per_step(page):
    """Every measured step has its picture, and without scripts the last one is visible."""
    frames = re.findall(r'<div class="frame" data-step="(\d+)"( hidden)?>', page)
    assert [int(step) for step, _ in frames] == list(STEPS)
    assert [bool(hidden) for _, hidden in frames] == [True] * (len(STEPS) - 1) + [False]


def test_the_bar_ends_where_the_reach_does(page):
    """The mark of the reach stands at its share of the past, that of the need at its own."""
    assert f'class="mark reach" style="left:{100 * REACH / NEED:.2f}%"' in page
    assert 'class="mark need" style="left:100.00%"' in page


def test_a_running_run_is_marked_as_such(review):
    """Whoever reads a preliminary verdict is told so, and from which step it is."""
    text = words_of(write_report(with_fields(review, status="running", is_preliminary=True)))
    assert "Still running: the verdict was drawn from the checkpoint at step 300 and may change." in text


def test_a_stop_at_a_bad_number_can_be_repeated(review, run_directory):
    """Where forensics were left, the page offers the command that repeats the step."""
    (run_directory / "forensics").mkdir()
    page = write_report(with_fields(review, path=run_directory))
    assert f"gradcast diagnose --replay {run_directory}/forensics" in words_of(page)


def test_report_and_picture_are_written_into_the_run(review, run_directory):
    """`gradients/report.html` and `gradients/flow.png` stand beside the readings."""
    write_report_files(with_fields(review, path=run_directory))
    assert "the last 32 of the 168 hours" in (run_directory / "gradients" / "report.html").read_text("utf-8")
    assert (run_directory / "gradients" / "flow.png").read_bytes().startswith(b"\x89PNG")
    (run_directory / "gradients" / "flow.png").unlink()
    write_report_files(with_fields(review, path=run_directory, readings=Readings()))
    assert not (run_directory / "gradients" / "flow.png").exists()


def test_the_least_that_a_run_can_leave_makes_a_report(review):
    """No readings, no need, no outcome, no findings: the page says what is not known instead of failing."""
    bare = with_fields(
        review,
        readings=Readings(),
        evidence=Evidence(settings={}, layers=("lstm.0",)),
        verdict=Verdict(verdict="inconclusive"),
        config=build_config({}),
    )
    text = words_of(write_report(bare))
    assert "It is too early to say" in text
    assert "was not measured" in text
    assert "None of the rules found anything" in text


def test_only_a_network_with_layers_is_said_to_have_some(review):
    """A linear map has neither layers nor units."""
    linear = with_fields(review, config=build_config({"model": {"architecture": "linear"}}))
    assert "64 units" not in write_report(linear)
    assert "1 layer of 64 units" in write_report(with_fields(review, config=build_config({"model": {"architecture": "gru"}})))


def test_a_network_without_recurrence_is_not_judged_by_reach(review):
    """The linear network has nothing that could travel back through time."""
    evidence = review.evidence.model_copy(update={"layers": ()})
    text = words_of(write_report(with_fields(review, evidence=evidence, readings=Readings())))
    assert "This network has no recurrence" in text


def test_measurements_come_with_unit_and_meaning(review):
    """Every row of the last table names its unit, and single gates' norms are left out of the figure."""
    readings = Readings()
    readings.add(5, {"half_life/stack": 3.0, "spectral_radius/lstm.0": 0.9, "past_use/steps": 24.0})
    rows = measurement_rows(readings, review.evidence, "hours")
    assert ("half-life", "whole network", "3", "hours", "the gradient halves over so many") in rows
    assert all(row[3] for row in rows)
    review.readings.add(300, {"grad_norm/lstm.0.weight_hh": 1.0})
    steps, norms = norm_columns(review.readings)
    assert set(norms) == {"total", "lstm.0"}
    assert len(steps) == len(norms["total"])


@pytest.fixture
def other(review):
    """The same with another initialisation, better and longer in reach."""
    config = build_config(
        {
            "data": {"path": "traffic.csv", "freq": "h"},
            "model": {
                "architecture": "lstm",
                "num_layers": 2,
                "context_length": 168,
                "horizon": 24,
                "initialization": "chrono",
            },
            "fit": {"max_steps": 300},
            "tracking": {"run_name": "second"},
        }
    )
    evidence = review.evidence.model_copy(
        update={"outcome": review.evidence.outcome.model_copy(update={"val_error": 0.7})}
    )
    verdict = Verdict(verdict="healthy", reach_steps=168, need_steps=168)
    return with_fields(review, name="better & longer", config=config, evidence=evidence, verdict=verdict)


def test_two_runs_differ_in_what_was_set(review, other):
    """Settings that differ are listed, names of runs are not."""
    assert differing_settings(review, other) == {"model.initialization": (None, "chrono")}
    assert differing_settings(review, review) == {}


def test_the_better_forecast_decides_not_the_reach(review, other):
    """The conclusion is drawn from the error, and withheld where errors cannot be compared."""
    assert conclusion(review, other) == "better & longer forecasts better than bike: MASE 0.7 against 1.4, 50% lower."
    assert conclusion(other, review) == conclusion(review, other)
    longer = build_config({"data": {"path": "traffic.csv"}, "model": {"horizon": 48}})
    assert "cannot be said" in conclusion(review, with_fields(other, config=longer))
    unknown = review.evidence.model_copy(update={"outcome": None})
    assert "cannot be said" in conclusion(review, with_fields(other, evidence=unknown))


def test_comparison_rows_hold_both_runs_numbers(review, other):
    """Verdict, reach, need, ratio, error and findings of both stand side by side."""
    rows = {label: (left, right) for label, left, right in comparison_rows(review, other)}
    assert rows["verdict"] == ("vanishing", "healthy")
    assert rows["reach"] == ("32 hours", "168 hours")
    assert rows["forecast error"] == ("1.4 (MASE)", "0.7 (MASE)")
    assert rows["findings"] == ("1 fault, 1 info", "none")
    document = comparison_to_dict(review, other)
    assert document["settings"] == {"model.initialization": [None, "chrono"]}
    assert [run["gradients"]["verdict"] for run in document["runs"]] == ["vanishing", "healthy"]


def test_the_comparison_page_is_self_contained_and_escaped(review, other):
    """Both runs on one page, under the same rules as the report."""
    page = write_comparison(review, other)
    parsed = outline(page)
    assert [reference for reference in parsed.references if not reference.startswith(("#", "data:"))] == []
    assert len(parsed.ids) == len(set(parsed.ids))
    text = words_of(page)
    assert "better & longer forecasts better than bike" in text
    assert "model.initialization null chrono" in text

"""The report in a real browser: nothing is fetched, nothing fails, the slider slides, and it fits a telephone."""

from __future__ import annotations

import pytest

from tests.integration.review.example_run import NEED, REACH, STEPS, build_review
from training.report.document import write_report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The example's report as a file."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(write_report(build_review(path.parent / "absent")), encoding="utf-8")
    return path


@pytest.fixture
def opened(chromium, report):
    """The page, and everything it asked for or complained about."""
    page = chromium.new_page(viewport={"width": 1200, "height": 900})
    events = []
    page.on("console", lambda message: events.append(message.text))
    page.on("pageerror", lambda error: events.append(str(error)))
    page.on("request", lambda request: events.append(request.url))
    page.goto(report.as_uri())
    yield page, events
    page.close()


def test_the_page_opens_without_a_request_or_a_complaint(opened, report):
    """The only thing that is read is the page itself."""
    page, events = opened
    page.wait_for_load_state()
    assert events == [report.as_uri()]


def test_the_first_screen_holds_the_sentence_and_both_marks(opened):
    """Without scrolling a person sees the verdict, its sentence, and how far it reaches beside how far it should."""
    page, _ = opened
    sentence = f"The network is told about only the last {REACH} of the {NEED} hours it needs."
    assert page.locator("h1").inner_text() == sentence
    for selector in ("h1", ".strip .mark.reach", ".strip .mark.need", ".tiles"):
        box = page.locator(selector).first.bounding_box()
        assert box["y"] + box["height"] <= 900
    reach, need = (page.locator(f".strip .mark.{kind}").bounding_box()["x"] for kind in ("reach", "need"))
    assert reach < need


def test_the_slider_changes_the_picture(opened):
    """One picture is visible at a time, the one of the step that the slider names."""
    page, _ = opened
    for place, step in enumerate(STEPS):
        page.locator("input[type=range]").fill(str(place))
        visible = page.locator(".frame:visible")
        assert visible.count() == 1
        assert visible.get_attribute("data-step") == f"{step:,}"
        assert page.locator("output").inner_text() == f"step {step:,}"


def test_play_runs_through_the_training(opened):
    """From the last step the button starts over."""
    page, _ = opened
    page.locator(".slider button").click()
    assert page.locator("output").inner_text() == f"step {STEPS[0]:,}"
    page.locator("output", has_text=f"step {STEPS[-1]:,}").wait_for(timeout=10_000)


def test_a_copied_command_is_whole(opened):
    """The copy button takes the command as one line, its options separated by spaces."""
    page, _ = opened
    text = page.locator(".command code").first.evaluate("code => code.textContent")
    assert text == "gradcast train --set model.initialization=chrono --set model.num_layers=1"


@pytest.mark.parametrize("width", [360, 390, 768])
def test_the_page_fits_a_narrow_screen(opened, width):
    """Nothing makes the page itself scroll sideways."""
    page, _ = opened
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_dark_theme_is_readable(opened):
    """Text and page swap light and dark, figures included."""
    page, _ = opened
    page.emulate_media(color_scheme="dark")
    luminance = "c => c.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0)"
    colours = page.evaluate(
        "() => { const l = " + luminance + "; const s = e => getComputedStyle(document.querySelector(e));"
        " return [l(s('body').backgroundColor), l(s('h1').color), l(s('.picture svg text').fill)]; }"
    )
    assert colours[0] < 150
    assert colours[1] > 600
    assert colours[2] > 600

"""The web page in a real browser, against a real service: a table is dropped, checked, trained on, forecast and explained."""

from __future__ import annotations

import json

import pytest

from app.access.keys import KeyStore
from app.access.scopes import Scope
from app.jobs.job_directory import JobDirectory
from app.settings import ServiceSettings
from models.columns import Columns
from tests.integration.review.example_run import NEED, STEPS, build_review
from tests.integration.service.live_service import running
from tests.integration.service.service_bundles import build_context, write_bundle
from training.report.view import write_view

pytestmark = [pytest.mark.browser, pytest.mark.network]
HOURS = "".join(f"2026-01-{1 + hour // 24:02d}T{hour % 24:02d}:00:00,{50 + hour % 24}\n" for hour in range(300))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A service with a model and no worker, its address, and the folder of its jobs."""
    folder = tmp_path_factory.mktemp("site")
    bundles = folder / "bundles"
    for version in (1, 2):
        write_bundle(bundles / "hourly" / str(version), seed=version, context=build_context(Columns()))
    settings = ServiceSettings(bundle=bundles, jobs_directory=folder / "jobs", job_workers=0, poll_seconds=1000.0)
    with running(settings) as address:
        yield address, folder / "jobs" / "jobs"


@pytest.fixture
def opened(chromium, site):
    """A page of the site; what it complained about and what it asked of other hosts must be nothing."""
    address, _ = site
    page = chromium.new_page(viewport={"width": 1200, "height": 900})
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if "violates" in message.text else None)
    page.on("request", lambda request: None if request.url.startswith(address) else complaints.append(request.url))
    yield page
    assert complaints == []
    page.close()


def put_file(page, content: str, name: str = "sales.csv") -> None:
    page.locator("#file").set_input_files({"name": name, "mimeType": "text/csv", "buffer": content.encode()})


@pytest.fixture(scope="module")
def dataset(chromium, site):
    """The page of an uploaded table."""
    page = chromium.new_page()
    page.goto(site[0])
    put_file(page, f"ds,y\n{HOURS}")
    page.wait_for_url("**/page/data/*", timeout=60_000)
    address = page.url
    page.close()
    return address


@pytest.fixture
def job(site, dataset):
    """A job that waits, and its directory."""
    spec = {"dataset_id": dataset.rpartition("/")[2], "dataset_name": "sales.csv", "model_name": "sales", "promote": False}
    return JobDirectory.create(site[1], "fit: {}\n", **spec)


def test_the_first_screen_says_what_to_do(opened, site):
    """Title, the place to drop a table, and the three steps are seen without scrolling; the model is below with its verdict."""
    opened.goto(site[0])
    for selector in ("h1", "#drop", ".steps li:last-child"):
        box = opened.locator(selector).bounding_box()
        assert box["y"] + box["height"] <= 900
    card = opened.locator("#models article")
    card.wait_for()
    assert card.locator("h3").inner_text() == "hourly"
    assert card.locator(".badge").first.inner_text() == "healthy"


def test_a_table_that_cannot_be_used_is_explained(opened, site):
    """What is wrong stands there with its line, and nothing is kept."""
    opened.goto(site[0])
    put_file(opened, f"ds,y\n{HOURS}2026-01-01T00:00:00,7\n", "twice.csv")
    answer = opened.locator("#upload-answer .card")
    answer.wait_for(timeout=60_000)
    assert "twice.csv cannot be used yet" in answer.inner_text()
    assert "line 302" in answer.inner_text()


def test_a_table_is_checked_drawn_and_forecast(opened, dataset):
    """The audit in words, a chart, and behind it the forecast of a served model with its intervals."""
    opened.goto(dataset)
    opened.locator("#audit .badge").wait_for()
    assert "300 rows in 1 series, one value per hour" in opened.locator("#audit").inner_text()
    assert opened.locator("#chart .band").count() == 0
    opened.locator("#forecast").click()
    opened.locator("#chart .band").first.wait_for(state="attached")
    assert opened.locator("#chart .band").count() == 2
    assert "80 of 100 cases" in opened.locator("#forecast-answer").inner_text()


def test_a_training_is_started_with_its_settings(opened, site, dataset):
    """Name, steps and a line of settings arrive in the job; a wrong one is named."""
    opened.goto(dataset + "?name=fuel&set=optimizer.learning_rate%3D0.01")
    opened.locator("#audit .badge").wait_for()
    opened.locator("#steps").fill("50")
    opened.locator("#settings").fill("optimizer.learning_rate=0.01\nfit.max_stps=3")
    opened.locator("#train button[type=submit]").click()
    opened.locator("#train-answer .bad").wait_for()
    assert "config.fit.max_stps: is not a known key" in opened.locator("#train-answer").inner_text()
    opened.locator("#settings").fill("optimizer.learning_rate=0.01")
    opened.locator("#train button[type=submit]").click()
    opened.wait_for_url("**/page/jobs/*")
    opened.locator("#state .badge", has_text="waiting").wait_for()
    job = JobDirectory(site[1] / opened.url.rpartition("/")[2])
    assert (job.spec.model_name, job.spec.promote) == ("fuel", True)
    assert "learning_rate: 0.01" in (job.path / "config.yaml").read_text()
    opened.locator("#cancel").click()
    opened.locator("#state .badge", has_text="stopped").wait_for()


def test_a_training_is_drawn_while_it_runs(opened, site, job):
    """Loss, norm and reach grow in their charts, the verdict appears, and the state changes without a reload."""
    opened.goto(f"{site[0]}/page/jobs/{job.path.name}")
    opened.locator("#state .badge", has_text="waiting").wait_for()
    with job.locked():
        job.begin_attempt()
        job.run.mkdir()
        progress = job.run / "progress.jsonl"
        progress.write_text('{"start": 0, "max_steps": 300}\n')
        opened.locator("#state .badge", has_text="running").wait_for()
        with progress.open("a") as stream:
            for step in (10, 20, 30):
                values = {"step": step, "loss": 1 / step, "grad_norm": 0.5, "reach": step, "val_loss": 2 / step}
                stream.write(json.dumps(values) + "\n")
        opened.locator("#where", has_text="Step 30 of 300").wait_for()
        for chart, lines in (("#loss", 2), ("#norm", 1), ("#reach", 1)):
            assert opened.locator(f"{chart} path.line").count() == lines
        write_view(build_review(job.run))
        opened.locator("#verdict h2", has_text=f"only the last 32 of the {NEED} hours it needs").wait_for()
        assert opened.locator("#reach .marked").text_content() == f"needed: {NEED}"
    job.finish("failed", "crashed", "It crashed.")
    opened.locator("#state .badge", has_text="failed").wait_for()


def test_gradients_are_shown_by_layer_lag_and_step(opened, site, job, dataset):
    """The slider changes the map, the need is marked, findings carry a way to train again with their remedy."""
    write_view(build_review(job.run))
    job.finish("failed", "crashed", "It crashed.")
    opened.goto(f"{site[0]}/page/gradients/{job.path.name}")
    opened.locator("#flow svg").wait_for()
    opacities = "() => [...document.querySelectorAll('#flow .cell')].map((cell) => cell.getAttribute('fill-opacity')).join()"
    seen = set()
    for place, step in enumerate(STEPS):
        opened.locator("#step").fill(str(place))
        assert opened.locator("#step-words").inner_text() == f"step {step:,}"
        seen.add(opened.evaluate(opacities))
    assert len(seen) == len(STEPS)
    assert opened.locator("#flow .axis", has_text="whole network").count() == 1
    assert opened.locator("#curve .marked").text_content() == f"needed: {NEED}"
    finding = opened.locator("#findings .fault")
    assert "<script>alert(1)</script>" in finding.inner_text()
    finding.locator("a.button").first.click()
    opened.wait_for_url("**/page/data/*")
    assert opened.locator("#settings").input_value() == "model.initialization=chrono\nmodel.num_layers=1"


def test_two_runs_are_compared(opened, site, job):
    """The same run twice: neither forecasts better, no setting differs, both curves are drawn."""
    write_view(build_review(job.run))
    opened.goto(f"{site[0]}/page/compare?first={job.path.name}&second={job.path.name}")
    opened.locator("h1", has_text="Both forecast equally well.").wait_for()
    assert "same settings" in opened.locator("#settings").inner_text()
    assert opened.locator("#curve path.line").count() == 2


def test_without_a_registry_nothing_is_promoted(opened, site):
    """A directory of bundles has no aliases to move, and the page says so where it was asked."""
    opened.goto(site[0])
    opened.locator("#models summary").click()
    assert opened.locator("#models td", has_text="serving").count() == 1
    opened.locator("#models button", has_text="Make champion").click()
    opened.locator("#models .say.bad", has_text="there is no registry to promote in").wait_for()


def test_the_gate_answers_in_words_and_can_be_overridden(opened, site):
    """A refusal lists its reasons; with a reason of one's own the version is promoted, and the reason is shown."""
    sent = []
    reason = "It is not better than the champion, version 2: val/mase 0.95 against 0.9, on the same windows."
    decision = {"is_allowed": False, "is_promoted": False, "reasons": [reason], "version": 1, "champion": 2, "override": None}

    def answer(route):
        body = route.request.post_data_json
        sent.append(body)
        if "override" in body:
            route.fulfill(json=decision | {"is_promoted": True, "override": body["override"]})
        else:
            route.fulfill(status=409, json={"code": "promotion_refused", "detail": reason, "decision": decision})

    opened.route("**/models/hourly/promote", answer)
    opened.goto(site[0])
    opened.locator("#models summary").click()
    opened.locator("#models button", has_text="Make champion").click()
    refusal = opened.locator("#models .decision")
    refusal.wait_for()
    assert refusal.inner_text().split("\n") == ["The gate keeps the present champion of hourly.", "", reason]
    opened.locator("#models form input").fill("The new one reads more columns.")
    opened.locator("#models form button").click()
    opened.locator("#models .decision", has_text="Promoted all the same: The new one reads more columns.").wait_for()
    assert sent == [{"version": 1}, {"version": 1, "override": "The new one reads more columns."}]


@pytest.mark.parametrize("width", [360, 768])
def test_pages_fit_narrow_screens(opened, site, dataset, job, width):
    """No page scrolls sideways on a telephone."""
    write_view(build_review(job.run))
    opened.set_viewport_size({"width": width, "height": 800})
    for path in ("/", dataset.removeprefix(site[0]), f"/page/jobs/{job.path.name}", f"/page/gradients/{job.path.name}"):
        opened.goto(site[0] + path)
        opened.locator("#models article, main svg").first.wait_for()
        assert opened.evaluate("document.documentElement.scrollWidth") <= width


def test_everything_is_reached_by_keyboard(opened, site):
    """The skip link comes first, and the table is chosen with a key."""
    opened.goto(site[0])
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.className") == "skip"
    seen = []
    for _ in range(8):
        opened.keyboard.press("Tab")
        seen.append(opened.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
    assert "file" in seen


def test_the_dark_theme_is_readable(opened, site):
    """Page and text swap light and dark."""
    opened.emulate_media(color_scheme="dark")
    opened.goto(site[0])
    light = "(name) => getComputedStyle(document.querySelector(name))"
    sums = opened.evaluate(
        f"() => {{ const of = {light}; const sum = (c) => c.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0);"
        " return [sum(of('body').backgroundColor), sum(of('h1').color)]; }"
    )
    assert sums[0] < 150
    assert sums[1] > 600


def test_pages_forbid_what_they_do_not_need(site):
    """Scripts and styles come from this service alone, none stand in the markup, and nobody may frame it."""
    import httpx

    answer = httpx.get(site[0])
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "<style" not in answer.text
    assert " style=" not in answer.text
    assert httpx.get(f"{site[0]}/page/jobs/..%2f..%2fx").status_code == 404
    assert httpx.get(f"{site[0]}/page/data/%22%3E%3Cscript%3E").status_code == 404


def test_another_site_cannot_make_the_browser_act(site):
    """A form on a foreign page may reach the service, but changes nothing."""
    import httpx

    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        for path in ("/datasets", "/jobs", "/models/hourly/promote"):
            answer = httpx.post(site[0] + path, content=b"ds,y", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (403, "cross_site_request")


def test_the_page_asks_for_a_key_and_keeps_it_in_the_tab(chromium, tmp_path):
    """One dialog however many requests wait; a wrong key is asked for again; the right one is in sessionStorage alone, until
    it is forgotten.
    """
    write_bundle(tmp_path / "bundles" / "hourly" / "1", context=build_context(Columns()))
    _, token = KeyStore(tmp_path / "keys").create("a", [Scope.ADMIN])
    folders = {"bundle": tmp_path / "bundles", "jobs_directory": tmp_path / "jobs", "keys_directory": tmp_path / "keys"}
    settings = ServiceSettings(**folders, job_workers=0, open="never")
    with running(settings) as address:
        page = chromium.new_page()
        page.goto(address)
        dialog = page.locator("#key-dialog")
        for key in ("gradcast_00000000_" + "0" * 64, token):
            dialog.wait_for()
            dialog.locator("input").fill(key)
            dialog.locator("button[value=use]").click()
        page.locator("#models article").wait_for()
        assert page.evaluate("Object.values(sessionStorage)") == [token]
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        page.locator("#key-open").click()
        dialog.locator("button[value=forget]").click()
        dialog.wait_for()
        assert page.evaluate("sessionStorage.length") == 0
        page.close()


def test_the_api_page_reads_as_text_and_sends_requests(opened, site):
    """Descriptions are set, not shown as they were typed; a form's answer is the service's."""
    opened.goto(f"{site[0]}/docs")
    opened.locator("#routes details.route").first.wait_for()
    words = opened.locator("#docs-summary").inner_text() + "".join(
        opened.locator("details.route > p, details.route > ul, details.route td").all_text_contents()
    )
    assert "**" not in words
    assert "`" not in words
    forecast = opened.locator("details.route").filter(has_text="POST /forecast").first
    forecast.locator("> summary").click()
    assert forecast.locator("> ul > li").count() >= 4
    models = opened.locator("details.route").filter(has=opened.locator("summary", has_text="List models")).first
    models.locator("> summary").click()
    models.locator("form button").click()
    models.locator("form pre").wait_for()
    assert '"hourly"' in models.locator("form pre").inner_text()


def test_a_new_version_that_cannot_be_loaded_is_said_above_everything(chromium, tmp_path):
    """The page says which version goes on answering, and why the new one does not."""
    write_bundle(tmp_path / "store" / "hourly" / "1")
    # A leading dot marks what is still being written.
    staging = write_bundle(tmp_path / "store" / "hourly" / ".2")
    weights = staging / "weights.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    settings = ServiceSettings(
        bundle=tmp_path / "store", jobs_directory=tmp_path / "jobs", job_workers=0, poll_seconds=0.1, open="always"
    )
    with running(settings) as address:
        staging.rename(tmp_path / "store" / "hourly" / "2")
        page = chromium.new_page()
        trouble = page.locator("#trouble [role=alert]")
        for _ in range(100):
            page.goto(address)
            page.locator("#models article").wait_for()
            if trouble.count():
                break
            page.wait_for_timeout(100)
        assert "hourly goes on answering with version 1. Version 2:" in trouble.inner_text()
        assert page.locator("#models .badge").first.inner_text() == "healthy"
        page.close()

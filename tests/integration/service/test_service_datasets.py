"""Uploads: audited, deduplicated, bounded, confined."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from app.jobs.files import safe_file_name
from app.jobs.job_directory import JobDirectory
from app.schemas.datasets import DatasetBody, DatasetPreview
from tests.integration.service.service_bundles import TestClient

ROWS = "".join(f"2026-01-{day:02d},{10 + day % 7}\n" for day in range(1, 32))
DAILY = f"ds,y\n{ROWS}"


@pytest.fixture
def site(shared_store: Path, launch, tmp_path: Path):
    """A service with a folder for jobs, without workers."""

    def start(**settings) -> tuple[TestClient, Path]:
        directory = tmp_path / "jobs"
        return launch(shared_store, is_ready=False, jobs_directory=directory, job_workers=0, **settings), directory

    return start


def upload(client: TestClient, content: str | bytes, name: str = "sales.csv", **columns: str):
    return client.post("/datasets", content=content, params={"name": name} | columns)


def test_an_upload_is_audited_and_kept_once(site):
    """The answer holds the audit's summary and a preview of the end; the same content again is the same data set."""
    client, directory = site()
    first = upload(client, DAILY, "../../Sales 2026.csv")
    assert first.status_code == 201
    body = DatasetBody.model_validate(first.json())
    assert body.name == "Sales_2026.csv"
    assert (body.summary["rows"], body.summary["freq"], body.counts.error) == (31, "D", 0)
    again = upload(client, DAILY, "other.csv")
    assert (again.status_code, again.json()["id"]) == (200, body.id)
    assert [entry["id"] for entry in client.get("/datasets").json()["datasets"]] == [body.id]
    assert client.get(f"/datasets/{body.id}").json() == first.json()
    preview = DatasetPreview.model_validate(client.get(f"/datasets/{body.id}/preview").json())
    assert preview.series[0].y[-1] == 10 + 31 % 7
    assert preview.series[0].ds[-1] == "2026-01-31T00:00:00"
    # Nothing has been written anywhere else, and nothing half-received is left.
    written = sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())
    home = f"datasets/{body.id}"
    assert written == [f"{home}/content/Sales_2026.csv", f"{home}/preview.json", f"{home}/record.json"]


def test_columns_are_found_or_told(site):
    """A compressed file with other names: the audit's own suggestion is taken, and said."""
    client, _ = site()
    text = "day,price,shop\n" + "".join(line + ",north\n" for line in ROWS.splitlines())
    found = upload(client, gzip.compress(text.encode()), "prices.csv.gz")
    assert found.status_code == 201, found.text
    assert found.json()["columns"]["time_col"] == "day"
    assert found.json()["columns"]["target_col"] == "price"


def test_what_training_would_refuse_is_refused_with_the_audit(site):
    """The 422 names line and remedy, nothing is kept, and no directory of this machine is told."""
    client, directory = site()
    broken = upload(client, DAILY + "2026-01-31,99\n")
    assert (broken.status_code, broken.json()["code"]) == (422, "dataset_invalid")
    (problem,) = [problem for problem in broken.json()["audit"]["problems"] if problem["severity"] == "error"]
    assert (problem["code"], problem["row"]) == ("duplicate_timestamps", 33)
    assert str(directory) not in broken.text
    assert client.get("/datasets").json() == {"datasets": []}
    assert list((directory / "datasets").iterdir()) == []


def test_size_is_bounded_for_one_and_for_all(site):
    """A file that is too large is refused while it comes; a full store is a 507; nothing is left of either."""
    client, directory = site(max_dataset_bytes=1000, max_datasets_bytes=700)
    for size, status, code in ((400, 507, "storage_full"), (2000, 413, "body_too_large")):
        large = upload(client, iter([b"x" * size] * 2))
        assert (large.status_code, large.json()["code"]) == (status, code)
    assert list((directory / "datasets").iterdir()) == []


def test_unknown_ids_and_paths_are_not_found(site):
    """An id is a hash; anything else, a path above all, is no data set."""
    client, directory = site()
    (directory / "datasets").mkdir(parents=True)
    for dataset_id in ("0" * 32, "%2e%2e%2fjobs", "x"):
        assert client.get(f"/datasets/{dataset_id}").status_code == 404
        assert client.delete(f"/datasets/{dataset_id}").status_code in (404, 405)


def test_a_data_set_that_a_job_needs_stays(site, uploaded):
    """It can be removed when the job has ended."""
    client, directory = site()
    dataset_id = uploaded(directory)
    job = client.post("/jobs", json={"dataset_id": dataset_id}).json()
    refused = client.delete(f"/datasets/{dataset_id}")
    assert (refused.status_code, refused.json()["code"]) == (409, "dataset_in_use")
    assert client.post(f"/jobs/{job['id']}/cancel").json()["state"] == "cancelled"
    assert client.delete(f"/datasets/{dataset_id}").status_code == 204
    assert client.get("/datasets").json() == {"datasets": []}
    assert JobDirectory.find(directory / "jobs", job["id"]) is not None


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("sales.csv", "sales.csv"),
        ("../../etc/passwd", "passwd"),
        ("C:\\data\\my file.csv.gz", "my_file.csv.gz"),
        (".hidden", "hidden"),
        ("--output=x", "output_x"),
        ("..", "data.csv"),
        ("日本.csv", "csv"),
        ("a" * 300 + ".csv", "a" * 76 + ".csv"),
    ],
)
def test_names_of_files_are_harmless(name, safe):
    """Only the last part of a name is kept, and of it letters, digits, dots, dashes and underscores."""
    assert safe_file_name(name) == safe

"""The registry as a source: what the catalog sees of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.services import registry_source
from app.services.registry_source import RegistrySource
from training.errors import ModelNotFoundError
from training.tracking.references import RegistryEntry, ResolvedModel


def build_entry(*versions: ResolvedModel) -> RegistryEntry:
    return RegistryEntry("bike", versions, {alias: v.version for v in versions for alias in v.aliases})


@pytest.fixture
def source(tmp_path: Path) -> RegistrySource:
    return RegistrySource("http://user:secret@tracking:5000", tmp_path)


def test_versions_come_oldest_first_with_aliases_and_tags(
    source: RegistrySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registered name becomes a listing: numbers ascending, aliases and tags on their version."""
    newest = ResolvedModel("bike", 2, ("champion",), "run2", {"gradient.verdict": "healthy"}, source="b", created_ms=2)
    oldest = ResolvedModel("bike", 1, (), "", source="a", created_ms=1)
    monkeypatch.setattr(registry_source, "list_models", lambda uri: [build_entry(newest, oldest)])
    (listing,) = source.list_models()
    assert [version.version for version in listing.versions] == [1, 2]
    champion = listing.by_alias("champion")
    assert champion is not None
    assert (champion.version, champion.run_id, champion.tags["gradient.verdict"]) == (2, "run2", "healthy")
    assert listing.versions[0].run_id is None


def test_a_number_given_again_is_another_content(source: RegistrySource, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that was deleted and registered again under its number is loaded again."""
    digests = []
    for created in (1, 2):
        entry = build_entry(ResolvedModel("bike", 1, ("champion",), source="same", created_ms=created))
        monkeypatch.setattr(registry_source, "list_models", lambda uri, entry=entry: [entry])
        digests.append(source.list_models()[0].versions[0].digest)
    assert digests[0] != digests[1]


def test_a_version_is_fetched_into_the_cache(
    source: RegistrySource, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Fetching asks the registry for the very version that was listed; one that was not is not found."""
    resolved = ResolvedModel("bike", 1, ("champion",), source="a")
    monkeypatch.setattr(registry_source, "list_models", lambda uri: [build_entry(resolved)])
    asked = []

    def download(uri: str, model: ResolvedModel, cache: Path) -> Path:
        asked.append((uri, model, cache))
        return cache / "bundle"

    monkeypatch.setattr(registry_source, "download_bundle", download)
    version = source.list_models()[0].versions[0]
    assert source.fetch(version) == tmp_path / "bundle"
    assert asked == [("http://user:secret@tracking:5000", resolved, tmp_path)]
    monkeypatch.setattr(registry_source, "list_models", lambda uri: [])
    source.list_models()
    with pytest.raises(ModelNotFoundError):
        source.fetch(version)


def test_credentials_stay_out_of_sight(source: RegistrySource) -> None:
    """What the service says about its source carries no password."""
    assert "secret" not in source.location

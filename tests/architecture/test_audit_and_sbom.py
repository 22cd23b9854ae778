"""The audit judges as it should, its exceptions have reasons, and the bill of materials names what is pinned; no network."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

CI = Path(__file__).resolve().parents[2] / ".ci"


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    """The script as a module."""
    loader = SourceFileLoader("gradcast_audit", str(CI / "audit"))
    spec = importlib.util.spec_from_loader("gradcast_audit", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_every_exception_has_a_reason(audit):
    """Of the audit's own list, and a bare ID would be refused."""
    audit.read_exceptions((CI / "audit-exceptions.txt").read_text())
    assert audit.read_exceptions("# why\nPYSEC-1  is not called here\n") == {"PYSEC-1": "is not called here"}
    with pytest.raises(SystemExit, match="PYSEC-2 must have a reason"):
        audit.read_exceptions("PYSEC-2\n")


def test_the_audit_fails_for_what_is_known_and_says_what_it_could_not_ask(audit):
    """A weakness always fails; what nobody could look up is said, and fails a release."""
    weak = {"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1"}]}
    fine, skipped = {"name": "b", "version": "2", "vulns": []}, {"name": "c", "skip_reason": "not found"}
    code, text = audit.judge({"dependencies": [weak, fine]}, is_strict=False)
    assert (code, "a 1: PYSEC-1" in text) == (1, True)
    assert audit.judge({"dependencies": [fine]}, is_strict=True)[0] == 0
    assert audit.judge({"dependencies": [fine, skipped]}, is_strict=False)[0] == 0
    assert "NOT audited" in audit.judge({"dependencies": [fine, skipped]}, is_strict=False)[1]
    assert audit.judge({"dependencies": [fine, skipped]}, is_strict=True)[0] == 1


def test_the_bill_of_materials_names_every_dependency_and_is_the_same_twice(repository, tmp_path):
    """Every requirement of pyproject.toml is a component in its pinned version, and nothing in it is of its making's time."""
    for name in ("one.json", "two.json"):
        subprocess.run([sys.executable, CI / "sbom", tmp_path / name], check=True, capture_output=True, timeout=60)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    document = json.loads((tmp_path / "one.json").read_text())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    versions = {_normal(component["name"]): component["version"] for component in document["components"]}
    wanted = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {_normal(re.split(r"[\[<>=~! ]", text)[0]) for text in wanted} <= set(versions)
    assert versions["torch"].split("+")[0] == "2.13.0"
    assert "pytest" not in versions


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()

"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGES = ("models", "training", "app")


def python_files(repository: Path, *folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((repository / folder).rglob("*.py"))


def test_no_package_marker_where_it_would_shadow(repository: Path) -> None:
    """docker/ must not shadow the docker SDK that mlflow imports, and tests/ is no package."""
    folders = ("docker", "tests", "docs", "benchmarks", "examples")
    markers = (path for folder in folders for path in (repository / folder).rglob("__init__.py"))
    found = [str(path) for path in markers if ".peers" not in path.parts]
    assert found == []


def test_docker_still_means_the_sdk(repository: Path) -> None:
    """With the repository's root first on the path, `import docker` still finds the installed SDK."""
    command = [sys.executable, "-c", "import docker; print(docker.__file__)"]
    result = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True, timeout=60)
    assert "site-packages" in result.stdout


def test_test_files_have_unique_names(repository: Path) -> None:
    """With import mode importlib and no packages, two test files of one name would be confused in reports."""
    names = [path.name for path in python_files(repository, "tests") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))


def test_nothing_is_unpickled_or_pickled(repository: Path) -> None:
    """No module imports pickle or its relatives, calls torch.load or torch.save, or asks pandas for a pickle."""
    banned_modules = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    banned_calls = {"torch.load", "torch.save", "np.load", "numpy.load"}
    offenders: list[str] = []
    for path in python_files(repository, *PACKAGES):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                offenders += [
                    f"{path}: import {alias.name}" for alias in node.names if alias.name.split(".")[0] in banned_modules
                ]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in banned_modules:
                offenders.append(f"{path}: from {node.module}")
            elif isinstance(node, ast.Attribute) and (
                ast.unparse(node) in banned_calls or node.attr in ("to_pickle", "read_pickle")
            ):
                offenders.append(f"{path}: {ast.unparse(node)}")
    assert offenders == []


def test_nothing_is_left_open(repository: Path) -> None:
    """No module carries a reminder in place of code."""
    words = ("TO" + "DO", "FIX" + "ME", "X" * 3, "NotImplemented" + "Error")
    offenders = [
        f"{path}: {word}"
        for path in python_files(repository, *PACKAGES)
        for word in words
        if word in path.read_text("utf-8")
    ]
    assert offenders == []


def test_every_test_states_a_truth(repository: Path) -> None:
    """Every test function has a docstring."""
    silent = [
        f"{path.relative_to(repository)}::{node.name}"
        for path in python_files(repository, "tests")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert silent == []


def test_every_lint_ignore_has_a_reason(repository: Path) -> None:
    """Each rule that pyproject.toml switches off says why, on its line."""
    lines = (repository / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    start = lines.index("ignore = [")
    rules = lines[start + 1 : lines.index("]", start)]
    assert rules
    assert [line for line in rules if "#" not in line] == []


@pytest.mark.parametrize("module", ["training.cli", "training.config", "training.tracking.tracker", "app.settings"])
def test_light_modules_import_nothing_heavy(repository: Path, module: str) -> None:
    """`gradcast --help` and a bare configuration need neither torch, mlflow, pandas nor a web framework."""
    heavy = {"torch", "mlflow", "pandas", "fastapi", "matplotlib"}
    program = f"import sys, {module}; print(*sorted({heavy} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.split() == []

"""Who may import whom: the contracts of pyproject.toml hold, and a broken one would be noticed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import app
import models
import training


def run_linter(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache"]
    return subprocess.run(
        [*command, *arguments], cwd=directory, capture_output=True, text=True, check=False, timeout=120
    )


def test_import_contracts_hold(repository: Path) -> None:
    """Models <- training <- app, and every narrower direction of pyproject.toml, holds for the code as it is."""
    result = run_linter(repository)
    assert result.returncode == 0, result.stdout + result.stderr


def test_linter_notices_a_forbidden_import(tmp_path: Path) -> None:
    """The contract on models fails when a network imports pandas: the check above is able to fail."""
    for package in ("models", "training", "app"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / "models" / "network.py").write_text("import pandas\n")
    (tmp_path / "pyproject.toml").write_text((Path(__file__).parents[2] / "pyproject.toml").read_text())
    result = run_linter(tmp_path, "--contract", "networks")
    assert result.returncode != 0
    assert "models.network -> pandas" in result.stdout


def test_linter_notices_a_service_that_trains(tmp_path: Path) -> None:
    """The contract on app fails when the service imports the loop, also for a module that the contract never names."""
    for package in ("models", "training", "app"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / "training" / "some_new_module.py").write_text("")
    (tmp_path / "app" / "main.py").write_text("import training.some_new_module\n")
    (tmp_path / "pyproject.toml").write_text((Path(__file__).parents[2] / "pyproject.toml").read_text())
    result = run_linter(tmp_path, "--contract", "service")
    assert result.returncode != 0
    assert "app.main -> training.some_new_module" in result.stdout


def test_packages_are_those_of_this_repository(repository: Path) -> None:
    """The generic names models, training and app mean this checkout, not some other installed package."""
    for package in (models, training, app):
        assert package.__file__ is not None
        assert Path(package.__file__).resolve().parent.parent == repository

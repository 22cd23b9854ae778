"""The generated reference is what the code says, and names everything that people hold on to."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def generate(repository: Path) -> ModuleType:
    """docs/generate.py as a module."""
    specification = importlib.util.spec_from_file_location("docs_generate", repository / "docs" / "generate.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(generate: ModuleType) -> dict[str, str]:
    """Every reference page as the code writes it now."""
    return dict(generate.render_pages())


def test_reference_is_up_to_date(pages: dict[str, str], repository: Path) -> None:
    """`make docs` would change nothing."""
    reference = repository / "docs" / "reference"
    stale = [
        name
        for name, page in pages.items()
        if not (reference / name).exists() or (reference / name).read_text() != page
    ]
    assert stale == [], f"run `make docs`: {stale}"
    assert {path.name for path in reference.iterdir()} == set(pages)


def test_every_verb_has_a_section(pages: dict[str, str]) -> None:
    """Each verb of the command line is documented under its own heading."""
    from training.cli import VERBS

    assert [verb for verb in VERBS if f"\n## gradcast {verb}\n" not in pages["commands.md"]] == []


def test_every_configuration_key_is_described(pages: dict[str, str]) -> None:
    """Each key has a row, and a description that is more than its name."""
    from training.config import config_keys

    keys = config_keys()
    assert [key for key in keys if f"\n| `{key}` |" not in pages["configuration.md"]] == []
    assert [key for key, description in keys.items() if len(description) < 10] == []


def test_every_setting_of_the_service_is_described(pages: dict[str, str]) -> None:
    """Each environment variable of the service has a row and a description."""
    from app.settings import ENV_PREFIX, ServiceSettings

    names = {f"{ENV_PREFIX}{name.upper()}": field.description for name, field in ServiceSettings.model_fields.items()}
    assert [name for name in names if f"\n| `{name}` |" not in pages["settings.md"]] == []
    assert [name for name, description in names.items() if not description] == []


def test_every_route_and_problem_code_is_documented(pages: dict[str, str]) -> None:
    """Each route of the running application and each code that it can answer with has a row."""
    from app.errors import PROBLEMS, SERIES_PROBLEMS, WARNINGS
    from app.main import create_app
    from app.settings import ServiceSettings

    page = pages["http.md"]
    for path, operations in create_app(ServiceSettings(bundle=Path("bundle"))).openapi()["paths"].items():
        for method in operations:
            assert f"\n| `{method.upper()} {path}` |" in page
    assert [code for code in (*PROBLEMS, *SERIES_PROBLEMS, *WARNINGS) if f"\n| `{code}` |" not in page] == []


def test_every_error_class_is_documented(pages: dict[str, str]) -> None:
    """Each kind of error of models and training has its code in the reference."""
    import models.errors
    import training.errors

    kinds = [
        thing
        for module in (models.errors, training.errors)
        for thing in vars(module).values()
        if isinstance(thing, type) and issubclass(thing, models.errors.GradcastError)
    ]
    kinds = [kind for kind in kinds if kind.__name__ not in ("GradcastError", "ProblemsError")]
    assert len(kinds) > 5
    assert [kind.code for kind in kinds if f"\n| `{kind.code}` |" not in pages["errors.md"]] == []


def test_every_problem_code_is_documented(repository: Path, pages: dict[str, str]) -> None:
    """A code that some module gives to a Problem stands in the reference, found another way."""
    import re

    pattern = re.compile(r"\bProblem\(\s*\"([a-z_]+)\"")
    codes = {
        code
        for path in (repository / "training").rglob("*.py")
        for code in pattern.findall(path.read_text(encoding="utf-8"))
    }
    assert len(codes) > 5
    assert [code for code in sorted(codes) if f"\n| `{code}` |" not in pages["errors.md"]] == []

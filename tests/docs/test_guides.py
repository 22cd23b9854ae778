"""What the texts say is true: commands parse, configurations load, links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def texts(repository: Path) -> list[Path]:
    found = [*repository.glob("*.md"), *(repository / "docs").rglob("*.md"), *(repository / "examples").rglob("*.md")]
    return sorted([*found, repository / "benchmarks" / "README.md"])


def blocks(repository: Path, language: str) -> list[tuple[Path, str]]:
    return [
        (path, code)
        for path in texts(repository)
        for kind, code in BLOCK.findall(path.read_text("utf-8"))
        if kind == language
    ]


def commands(repository: Path) -> list[tuple[str, list[str]]]:
    """Every `gradcast VERB ...` that a text shows, continuation lines joined, comments dropped."""
    found = []
    for path, code in blocks(repository, "bash"):
        for line in code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "docker" in words and "train" in words:
                # The service's entrypoint is `gradcast train`; --entrypoint gradcast replaces it.
                place = words.index("train")
                found.append((f"{path.name}: {line}", words[place + ("--entrypoint" in words) :]))
            elif any(Path(word).name == "gradcast" for word in words[:1]):
                found.append((f"{path.name}: {line}", words[1:]))
    return found


def test_readme_shows_the_two_commands(repository: Path) -> None:
    """A newcomer finds `make demo` and `make test` in a code block of the README."""
    code = "\n".join(code for path, code in blocks(repository, "bash") if path.name == "README.md")
    assert "make demo" in code
    assert "make test" in code


def test_shown_commands_parse(repository: Path) -> None:
    """Every gradcast command in a text has a verb and options that the command line knows."""
    from training.cli import build_parser

    shown = commands(repository)
    assert len(shown) > 15
    for line, words in shown:
        try:
            build_parser(words[0]).parse_args(words)
        except SystemExit as error:
            pytest.fail(f"{line} does not parse (exit {error.code})")


def test_shown_overrides_are_known_keys(repository: Path) -> None:
    """The --set of every command in a text name configuration keys, and values that go together."""
    from training.config import load_config

    shown = [
        [words[place + 1] for place, word in enumerate(words) if word == "--set"] for _, words in commands(repository)
    ]
    assert any(shown)
    for overrides in shown:
        load_config(None, overrides)


def test_shown_configurations_load(repository: Path) -> None:
    """Every YAML block in a guide, and every example file, is a valid configuration, or a space with dotted keys."""
    from training.config import build_config
    from training.tuning.space import parse_space

    documents = [(path.name, code) for path, code in blocks(repository, "yaml")]
    documents += [(path.name, path.read_text("utf-8")) for path in (repository / "examples").glob("*.yaml")]
    assert documents
    for _, code in documents:
        document = yaml.safe_load(code)
        read = parse_space if any("." in key for key in document) else build_config
        read(document)


def test_shown_json_is_json(repository: Path) -> None:
    """Every JSON block is a JSON document."""
    for _, code in blocks(repository, "json"):
        json.loads(code)


def test_shown_requests_fit_the_schema(repository: Path) -> None:
    """Every request body that a text posts to /forecast is one that the service accepts; other protocols' are executed."""
    from app.schemas.forecast import ForecastRequest

    shell = "\n".join(code for _, code in blocks(repository, "bash")).replace("\\\n", " ")
    bodies = re.findall(r"[0-9]/forecast\b[^\n]*? -d '([^']+)'", shell)
    assert bodies
    for body in bodies:
        ForecastRequest.model_validate_json(body)


def test_make_targets_in_texts_exist(repository: Path) -> None:
    """Every `make target` in a text is in the Makefile, and `make help` lists every target with a sentence."""
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    known = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    shown = {
        name
        for path in texts(repository)
        for name in re.findall(r"(?:^|`)make ([a-z-]+)", path.read_text("utf-8"), re.MULTILINE)
    }
    assert {"demo", "test", "check"} <= shown
    assert shown <= known
    assert {"help", "setup", "demo", "test", "check", "lint", "types", "bench", "serve", "up", "docs"} <= known


def test_links_lead_somewhere(repository: Path) -> None:
    """Every relative link in a text names a file that is there."""
    broken = []
    for path in texts(repository):
        for target in LINK.findall(path.read_text(encoding="utf-8")):
            if target.startswith(("http://", "https://", "#")):
                continue
            if not (path.parent / target.partition("#")[0]).exists():
                broken.append(f"{path.relative_to(repository)} -> {target}")
    assert broken == []


def test_no_text_or_source_names_a_path_of_some_machine(repository: Path) -> None:
    """Nothing that is published holds an absolute path of the machine it was written on."""
    pattern = re.compile(r"(?<![\w.])/(?:work|root|home/[a-z]+/)")
    sources = (
        path for folder in ("models", "training", "app", "benchmarks") for path in (repository / folder).rglob("*.py")
    )
    files = [*texts(repository), *(path for path in sources if ".peers" not in path.parts)]
    assert [str(path) for path in files if pattern.search(path.read_text("utf-8"))] == []

"""Write docs/reference/ from the code: commands, configuration keys, settings, routes, error codes.

usage: docs/generate.py          a test fails when a page is not what this would write
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
HEADER = "<!-- Written by docs/generate.py from the code. Do not edit: run `make docs`. -->\n\n"


def render_pages() -> dict[str, str]:
    """Every generated page by file name."""
    pages = {
        "commands.md": render_commands(),
        "configuration.md": render_configuration(),
        "settings.md": render_settings(),
        "http.md": render_routes(),
        "errors.md": render_errors(),
        "metrics.md": render_metrics(),
        "rules.md": render_rules(),
    }
    return {name: HEADER + page.rstrip() + "\n" for name, page in pages.items()}


def render_rules() -> str:
    """Rules in the order in which one explains the other, and every threshold."""
    from training.checks import CHECKS
    from training.gradients.conclusion import RULES
    from training.gradients.rules import thresholds

    rows = [
        f"| `{rule.__name__}` | `{verdict}` | {' '.join((inspect.getdoc(rule) or '').split())} |"
        for rule, verdict in RULES.items()
    ]
    values = [
        f"| `{name}` | {value:g} |" for name, value in vars(thresholds).items() if name.isupper()
    ]
    lines = [
        "# Rules", "", "What each means and what to do: [guide](../gradients.md). The first that is a fault names the verdict.",
        "", "| rule | verdict | fires when |", "|---|---|---|", *rows, "",
        "## Checks", "", "What a backtest says beside its scores; no verdict rests on them.", "",
        "| code | means |", "|---|---|", *(f"| `{code}` | {meaning} |" for code, meaning in CHECKS.items()), "",
        "## Thresholds", "", "With their sources in `training/gradients/rules/thresholds.py`.", "",
        "| threshold | value |", "|---|---|", *values,
    ]  # fmt: skip
    return "\n".join(lines)


def render_commands() -> str:
    """`gradcast VERB` with every option."""
    from training.cli import VERBS, build_parser

    parser = build_parser()
    parts = [
        "# Commands",
        str(parser.description),
        "`gradcast VERB [options]`, also `python -m training VERB`.",
        str(parser.epilog),
    ]
    parsers = _subparsers(parser)
    for verb, summary in VERBS.items():
        parts += [f"## gradcast {verb}", f"{_sentence(summary)}", *_render_parser(parsers[verb], f"gradcast {verb}")]
    return "\n\n".join(parts)


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:  # noqa: SLF001  argparse has no public way to list what it parses
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            return dict(action.choices)
    return {}


def _render_parser(parser: argparse.ArgumentParser, command: str) -> list[str]:
    parts = []
    if parser.description and "\n" in parser.description:
        _, _, rest = parser.description.partition("\n")
        parts.append(f"```text\n{inspect.cleandoc(rest)}\n```")
    rows = [_option_row(action) for action in parser._actions if not _is_hidden(action)]  # noqa: SLF001
    if rows:
        parts.append("| option | meaning |\n|---|---|\n" + "\n".join(rows))
    for name, child in _subparsers(parser).items():
        parts += [f"### {command} {name}", *_render_parser(child, f"{command} {name}")]
    return parts


def _is_hidden(action: argparse.Action) -> bool:
    return isinstance(action, argparse._HelpAction | argparse._SubParsersAction) or action.help == argparse.SUPPRESS  # noqa: SLF001


def _option_row(action: argparse.Action) -> str:
    takes_value = action.nargs != 0
    value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
    flags = ", ".join(action.option_strings)
    name = " ".join(part for part in (flags, str(value) if takes_value or not flags else "") if part)
    meaning = (action.help or "").replace("%%", "%")
    return f"| `{_cell(name)}` | {_cell(meaning)} |"


def render_configuration() -> str:
    """Every dotted key with type, default and meaning."""
    from training.config import TrainingConfig, config_keys

    defaults = TrainingConfig().model_dump(mode="json")
    descriptions = config_keys()
    parts = [
        "# Configuration keys",
        "Where a value comes from: [configuration](../configuration.md). `null` = chosen from the data, and said.",
    ]
    for section, info in TrainingConfig.model_fields.items():
        model = info.annotation
        assert model is not None
        rows = ["| key | default | values | meaning |", "|---|---|---|---|"]
        schema = model.model_json_schema()
        for name, field in model.model_fields.items():
            key = f"{section}.{field.alias or name}"
            default = _yaml(defaults[section][field.alias or name])
            values = _values(schema["properties"][field.alias or name], schema.get("$defs", {}))
            rows.append(f"| `{key}` | `{default}` | {_cell(values)} | {_cell(descriptions[key])} |")
        parts += [f"## {section}", _first_line(model), "\n".join(rows)]
    return "\n\n".join(parts)


def _yaml(value: Any) -> str:
    import yaml

    return str(yaml.safe_dump(value, default_flow_style=True)).removesuffix("\n").removesuffix("\n...").strip()


def _values(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """A JSON schema's constraints in words."""
    if "$ref" in schema:
        return _values(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_values(option, definitions) for option in schema["anyOf"]))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " ".join(f"`{value}`" for value in schema["enum"])
    kind = {
        "array": "list",
        "integer": "integer",
        "number": "number",
        "string": "text",
        "boolean": "`true` `false`",
        "null": "`null`",
    }
    bounds = [
        f"{sign} {_number(schema[key])}"
        for key, sign in (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
        if key in schema
    ]
    return " ".join([kind.get(schema.get("type", ""), str(schema.get("type", "any"))), ", ".join(bounds)]).strip()


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else str(value)


def render_settings() -> str:
    """Environment variables of the service."""
    from app.settings import ENV_PREFIX, ServiceSettings

    rows = ["| variable | default | values | meaning |", "|---|---|---|---|"]
    schema = ServiceSettings.model_json_schema()
    for name, field in ServiceSettings.model_fields.items():
        default = "see meaning" if field.default_factory is not None else f"`{_yaml(_plain(field.default))}`"
        values = _values(schema["properties"][name], schema.get("$defs", {}))
        rows.append(
            f"| `{ENV_PREFIX}{name.upper()}` | {default} | {_cell(values)} | {_cell(field.description or '')} |"
        )
    text = (
        "Read from the environment when the service starts; the flags of `gradcast serve` beat them. "
        "What they are for: [serving](../serving.md)."
    )
    return "\n\n".join(["# Settings of the service", text, "\n".join(rows)])


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def render_routes() -> str:
    """Routes, problem codes, and the codes inside an answer."""
    from app.errors import PROBLEMS, SERIES_PROBLEMS, WARNINGS

    routes = ["| route | what |", "|---|---|"]
    routes += [f"| `{method} {path}` | {_cell(summary)} |" for method, path, summary in list_routes()]
    problems = ["| code | status | meaning |", "|---|---|---|"]
    problems += [f"| `{code}` | {kind.status} | {_cell(kind.title)} |" for code, kind in PROBLEMS.items()]
    series = [
        "| code | meaning |",
        "|---|---|",
        *(f"| `{code}` | {_cell(text)} |" for code, text in SERIES_PROBLEMS.items()),
    ]
    warnings = [
        "| code | meaning |",
        "|---|---|",
        *(f"| `{code}` | {_cell(text)} |" for code, text in WARNINGS.items()),
    ]
    return "\n\n".join(
        [
            "# HTTP",
            "Requests and answers in full: `/docs` of a running service. How to use it: [serving](../serving.md).",
            "## Routes", "\n".join(routes),
            "## Problems",
            "Every error is `application/problem+json` (RFC 9457) with one of these as `code`; data is never echoed.",
            "\n".join(problems),
            "## Errors of one series",
            "One bad series does not sink a request: it carries its `error`, and `status` is `partial`.",
            "\n".join(series),
            "## Warnings of one series", "\n".join(warnings),
        ]
    )  # fmt: skip


def render_metrics() -> str:
    """Everything `GET /metrics` may print."""
    from app.main import create_app
    from app.settings import ServiceSettings

    registry = create_app(ServiceSettings(bundle=Path("bundle"))).state.metrics.registry
    rows = ["| metric | kind | meaning |", "|---|---|---|"]
    for family in sorted(registry.collect(), key=lambda family: family.name):
        name = family.name + ("_total" if family.type == "counter" else "")
        rows.append(f"| `{name}` | {family.type} | {_cell(family.documentation)} |")
    text = "What `GET /metrics` prints; a histogram has `_bucket`, `_sum`, `_count`. How to use it: [observing](../observing.md)."
    return "\n\n".join(["# Metrics", text, "\n".join(rows)])


def list_routes() -> list[tuple[str, str, str]]:
    """Method, path and summary of every route of the service."""
    from app.main import create_app
    from app.settings import ServiceSettings

    paths = create_app(ServiceSettings(bundle=Path("bundle"))).openapi()["paths"]
    found = [
        (method.upper(), path, operation["summary"])
        for path, operations in paths.items()
        for method, operation in operations.items()
    ]
    return [*found, ("GET", "/", "The web page"), ("GET", "/docs", "This, as a page to try")]


def render_errors() -> str:
    """Exit codes, kinds of errors, and the codes of problems in configurations and files."""
    from models.errors import GradcastError
    from training.cli import EXIT_CODES, EXIT_INPUT

    for package in ("models", "training"):
        _import_all(package)
    kinds = ["| code | exit code | meaning |", "|---|---|---|"]
    kinds += [
        f"| `{error.code}` | {EXIT_CODES.get(error.code, EXIT_INPUT)} | {_cell(_first_line(error))} |"
        for error in sorted(_subclasses(GradcastError), key=lambda error: error.code)
    ]
    problems = ["| code | message | remedy |", "|---|---|---|"]
    for code, (message, remedy) in sorted(list_problem_codes().items()):
        problems.append(f"| `{code}` | {_cell(message)} | {_cell(remedy)} |")
    return "\n\n".join(
        [
            "# Errors of the command line",
            "A mistake is reported in a sentence, never as a traceback. `...` stands for what differs by case.",
            "## Kinds", "\n".join(kinds),
            "Exit code 0: done. 4: not healthy, under `--fail-on unhealthy`. 130: stopped by the user, resumable.",
            "## Problems in configurations and data files",
            "Several are shown together: at most five, then the count. A code may have other wordings too.",
            "\n".join(problems),
        ]
    )  # fmt: skip


def _import_all(package: str) -> None:
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        # The pyfunc script announces itself to MLflow when it is imported.
        if not module.name.endswith(("__main__", "pyfunc_model")):
            importlib.import_module(module.name)


def _subclasses(kind: type) -> set[type]:
    return {
        kind
        for child in kind.__subclasses__()
        for kind in ({child} | _subclasses(child))
        if kind.__name__ != "ProblemsError" and "code" in vars(kind)
    }


# Where code, message and remedy stand among the arguments.
_PROBLEM_POSITIONS = {"Problem": (0, 2, 3), "AuditProblem": (0, 5, 6)}


def list_problem_codes() -> dict[str, tuple[str, str]]:
    """Code to message and remedy of every problem that the sources can report; the longest wording of each."""
    paths = [path for package in ("training", "app") for path in sorted((ROOT / package).rglob("*.py"))]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in paths]
    positions = _PROBLEM_POSITIONS | {name: place for tree in trees for name, place in _wrappers(tree)}
    found: dict[str, tuple[str, str]] = {}
    for function in (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        texts = _local_texts(function)
        for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
            name = call.func.id if isinstance(call.func, ast.Name) else ""
            if name not in positions:
                continue
            code, message, remedy = (_argument(call, place, texts) for place in positions[name])
            if code.replace("_", "").isalpha() and len(message) >= len(found.get(code, ("", ""))[0]):
                found[code] = (message, remedy or found.get(code, ("", ""))[1])
    return found


def _wrappers(tree: ast.AST) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """Functions that are handed the code and report it: their name, and where code, message and remedy are handed over."""
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        names = [argument.arg for argument in function.args.args]
        if "code" in names and any(isinstance(node, ast.Name) and node.id == "Problem" for node in ast.walk(function)):
            message = next((name for name in ("message", "actual") if name in names), "code")
            yield (
                function.name,
                (names.index("code"), names.index(message), names.index("remedy") if "remedy" in names else -1),
            )


def _argument(call: ast.Call, place: int, texts: dict[str, str]) -> str:
    if not 0 <= place < len(call.args):
        return ""
    return _text(call.args[place], texts)


def _local_texts(function: ast.FunctionDef) -> dict[str, str]:
    """Texts that a function gives names to before it uses them."""
    assignments = (
        node for node in ast.walk(function) if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    )
    return {node.targets[0].id: _text(node.value, {}) for node in assignments if isinstance(node.targets[0], ast.Name)}


def _text(node: ast.expr, texts: dict[str, str]) -> str:
    """A string, with `...` for what is filled in; empty if it is made elsewhere."""
    if isinstance(node, ast.Name):
        return texts.get(node.id, "")
    if isinstance(node, ast.Constant):
        return str(node.value) if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)
    if isinstance(node, ast.IfExp):
        return _text(node.body, texts) or _text(node.orelse, texts)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left, texts) + _text(node.right, texts)
    return ""


def _first_line(thing: type) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    """Write the pages."""
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for name, page in render_pages().items():
        (REFERENCE / name).write_text(page, encoding="utf-8")
        print(f"docs/reference/{name}")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()

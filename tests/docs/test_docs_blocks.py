"""Python shown in the documents runs, and prints what the document says it prints."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import re
import sys
import types
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from app.schemas.forecast import ForecastRequest, ForecastResponse

DOCUMENTS = Path(__file__).resolve().parents[2] / "docs"
FENCE = re.compile(r"^```(?P<language>\w*)[^\n]*\n(?P<body>.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]*\w)")
# Another processor may round differently; a wrong formula is off by more.
RELATIVE_TOLERANCE = 1e-3


class Block(NamedTuple):
    """Python from a document, the line it starts on, and the output shown right below it, if any."""

    code: str
    line: int
    shown: str | None


def python_blocks(text: str) -> list[Block]:
    fences = list(FENCE.finditer(text))
    blocks = []
    for fence, below in itertools.pairwise([*fences, None]):
        if fence["language"] != "python":
            continue
        follows = below is not None and below["language"] == "text" and not text[fence.end() : below.start()].strip()
        line = text.count("\n", 0, fence.start("body"))
        blocks.append(Block(fence["body"], line, below["body"] if follows else None))
    return blocks


def differences(printed: str, shown: str) -> Iterator[str]:
    """Lines that differ by more than spaces or by more than a number's last shown digit."""
    printed_lines, shown_lines = printed.strip().splitlines(), shown.strip().splitlines()
    if len(printed_lines) != len(shown_lines):
        yield f"printed {len(printed_lines)} lines, shown are {len(shown_lines)}:\n{printed}"
        return
    for actual, expected in zip(printed_lines, shown_lines, strict=True):
        numbers = zip(NUMBER.findall(actual), NUMBER.findall(expected), strict=False)
        skeletons = [NUMBER.sub("#", line).split() for line in (actual, expected)]
        if skeletons[0] != skeletons[1] or not all(same_number(one, other) for one, other in numbers):
            yield f"printed: {actual}\nshown:   {expected}"


def same_number(actual: str, expected: str) -> bool:
    mantissa, _, exponent = expected.lower().partition("e")
    if "." not in mantissa and not exponent:
        return actual == expected  # a count or an index has no last digit to be generous with
    last_digit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return math.isclose(float(actual), float(expected), rel_tol=RELATIVE_TOLERANCE, abs_tol=1.01 * last_digit)


@contextlib.contextmanager
def fresh_module(name: str) -> Iterator[dict[str, object]]:
    """A namespace shared by the blocks of one document; a real module, because dataclasses look theirs up."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    dtype = torch.get_default_dtype()
    try:
        with torch.random.fork_rng(devices=[]):
            yield module.__dict__
    finally:
        torch.set_default_dtype(dtype)
        del sys.modules[name]


def run(block: Block, path: Path, namespace: dict[str, object]) -> str:
    output = io.StringIO()
    # Empty lines in front make a traceback point at the document's own line.
    source = compile("\n" * block.line + block.code, str(path), "exec")
    with contextlib.redirect_stdout(output):
        exec(source, namespace)
    return output.getvalue()


def service_stand_in(request: urllib.request.Request, timeout: float) -> io.BytesIO:
    """What the service answers; it refuses a body that the service would refuse. No block leaves this process."""
    assert urllib.parse.urlsplit(request.full_url).path == "/forecast"
    body = ForecastRequest.model_validate_json(request.data)
    model = {"name": body.model or "first", "version": 1, "alias": "champion", "run_id": None, "verdict": "healthy"}
    forecasts = [
        {
            "unique_id": one.unique_id,
            "ds": [1],
            "mean": [0.0],
            "intervals": {f"{side}-{level:g}": [0.0] for level in body.level or () for side in ("lo", "hi")},
            "quantiles": {},
            "warnings": [],
            "error": None,
        }
        for one in body.series
    ]
    served = model | {"reach_steps": None, "trained_until": "0"}
    answer = ForecastResponse.model_validate({"model": served, "status": "completed", "forecasts": forecasts})
    return io.BytesIO(answer.model_dump_json().encode())


def documents_with_python() -> list[Path]:
    return [path for path in sorted(DOCUMENTS.rglob("*.md")) if python_blocks(path.read_text(encoding="utf-8"))]


@pytest.mark.slow
# torch's own forward mode still compiles its rules with the interface that it deprecates.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("path", documents_with_python(), ids=lambda path: path.name)
def test_python_in_documents_runs_and_prints_what_is_shown(path, tmp_path, monkeypatch):
    """Every python block of a document runs, in order and in one namespace, and prints the text shown below it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(urllib.request, "urlopen", service_stand_in)
    wrong = []
    with fresh_module(f"docs_{path.stem}") as namespace:
        for block in python_blocks(path.read_text(encoding="utf-8")):
            printed = run(block, path, namespace)
            if block.shown is not None:
                wrong += [
                    f"{path.name}, block of line {block.line}: {text}" for text in differences(printed, block.shown)
                ]
    assert not wrong, "\n".join(wrong)


def test_backpropagation_is_among_the_executed_documents():
    """The document this check was made for is found, and most of its blocks show their output."""
    blocks = python_blocks((DOCUMENTS / "backpropagation.md").read_text(encoding="utf-8"))
    assert len(blocks) >= 12
    assert sum(block.shown is not None for block in blocks) >= 10


def test_blocks_are_found_with_their_line_and_the_output_right_below():
    """A text block belongs to the python block above it only if nothing stands between; bash is no python."""
    first = "# T\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\n"
    text = first + "```bash\nls\n```\n```python\nx = 2\n```\nso\n\n```text\n2\n```\n"
    assert python_blocks(text) == [Block("print(1)\n", 3, "1\n"), Block("x = 2\n", 14, None)]


@pytest.mark.parametrize(
    ("printed", "shown", "same"),
    [
        ("loss 0.1234\n", "loss 0.1234\n", True),
        ("loss   0.1235", "loss 0.1234", True),  # one in the last digit
        ("loss 0.1240", "loss 0.1234", False),
        ("1.0004e-12", "1.0e-12", True),
        ("3.0e-12", "1.0e-12", False),
        ("step 10", "step 11", False),  # whole numbers are exact
        ("-0.5", "0.5", False),
        ("converged True", "converged False", False),
        ("1.0\n2.0", "1.0", False),
        ("nan", "1.0", False),
        ("[1.6000 0.5000]", "[1.6000 0.5000]", True),
    ],
)
def test_output_is_compared_word_for_word_and_number_for_number(printed, shown, same):
    """Words must be equal; a number with decimals may be off by one in its last shown digit."""
    assert (not list(differences(printed, shown))) is same


def test_a_failing_block_points_at_the_line_of_the_document(tmp_path):
    """The traceback of a broken block names the document and the line that the reader sees."""
    text = "# T\n\n```python\nx = 1\nraise RuntimeError(x)\n```\n"
    (block,) = python_blocks(text)
    with pytest.raises(RuntimeError) as raised:
        run(block, tmp_path / "broken.md", {})
    last = raised.traceback[-1]
    assert (Path(last.path).name, last.lineno + 1) == ("broken.md", 5)

"""Hostile bytes: grown from seeds by small changes, splices, and pieces that have broken other programs."""

from __future__ import annotations

import copy
import gzip
import json
import random
from pathlib import Path
from typing import Any

MAX_BYTES = 1 << 15
PIECES = [
    piece.encode("utf-8", "surrogatepass") if isinstance(piece, str) else piece
    for piece in (
        "NaN", "Infinity", "-Infinity", "1e308", "-1e308", "1e309", "1e-320", "0", "-1", "99999999999999999999",
        "9223372036854775808", "null", "true", "{}", "[]", '""', "[" * 3000, '{"a":' * 1500, "../../../../etc/passwd",
        "..\\..\\x", "/", "//", "%2e%2e%2f", "\x00", "\u202e", "\ufeff", "\U0001f4a5", "e\u0301" * 40, "\ud800",
        "a" * 5000, "@champion", "/1", "name@a/2", "plain@champion", "plain/1", "!!python/object/apply:os.system",
        "&a [*a]", "<<: *x", "? -", "- - - -", "'", '"', "\\", ",,,,", ";", "\t", "\n", "\r\n", "\r", "2026-01-01",
        "2026-13-45", "0001-01-01T00:00:00", "9999-12-31T23:59:59", "1677-09-21", "262143-01-01",
        "1970-01-01T00:00:00+99:99", "Inf", "-200", "1,5", "1e400", "@data\n", "@frequency hourly\n", "PAR1",
        b"\x1f\x8b\x08", b"\xff\xfe", b"\xef\xbb\xbf", b"\x00\xff",
        gzip.compress(b"0" * (1 << 22), 9),
    )
]  # fmt: skip


VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3, 5, 24, 10**6, 2**31, 2**63, 10**308, -(10**308), 10**400, 0.5, -0.0, 1e308, -1e308, 1e-320,
    float("nan"), float("inf"), float("-inf"), "", "a", "h", "D", "-1h", "9999999h", "15min", "../../etc/passwd", "/etc/passwd",
    "..\\\\x", "plain", "known", "plain@champion", "plain/1", "a/b@c", "\x00", "\u202e", "\ud800", "e\u0301" * 40, "x" * 5000,
    "2026-01-01", "2026-01-01T00:00:00+05:30", "9999-12-31T23:59:59", "0001-01-01", "1e5", "NaN", [], {}, [None], [[]],
    [1e308, -1e308], {"a": 1},
    {"temp": [1.0, 2.0]}, list(range(300)), ["a"] * 20, "!!python/object/apply:os.system", "__class__",
    "file:///etc/passwd", "http://127.0.0.1:1/", "sqlite:///x.db",
]  # fmt: skip
JSON_SHARE = 0.5


def forecast_body(**changes: object) -> bytes:
    """A request that is answered, with changes."""
    one = {"unique_id": "a", "start": "2026-01-01T00:00:00", "freq": "h", "y": [float(step % 5) for step in range(12)]}
    return json.dumps({"model": "plain", "horizon": 3, "level": [80], "series": [one]} | changes).encode()


def seeds(name: str) -> list[bytes]:
    """Where a target's inputs start from, beside the corpus."""
    if name == "reader":
        rows = b"unique_id,ds,y\n" + b"".join(b"a,2026-01-%02d,%d\n" % (day, day % 7) for day in range(1, 29))
        wide = b"ds;a;b\n" + b"".join(b"%d;%d;%d,5\n" % (step, step, step % 3) for step in range(30))
        tsf = b"@relation x\n@attribute series_name string\n@frequency monthly\n@data\nT1:1,2,3,4,5,6,7,8\n"
        return [b"\0" + rows, b"\0" + wide, b"\2" + gzip.compress(rows), b"\4" + tsf, b"\3PAR1" + bytes(40) + b"PAR1"]
    if name == "config":
        return [b"model: {architecture: lstm, hidden_size: 8}\nfit: {max_steps: 5}\n", b"data:\n  freq: h\n  fill: mask\n"]
    return []


def read_corpus(folder: Path) -> list[bytes]:
    """Inputs that were worth keeping: each was answered in a way that none before it was."""
    return [path.read_bytes() for path in sorted(folder.glob("*"))] if folder.is_dir() else []


def mutate(data: bytes, others: list[bytes], generator: random.Random) -> bytes:
    """One to eight changes: half the time to a value of the JSON document in it, so that it stays one; else to its bytes."""
    if generator.random() < JSON_SHARE and (changed := _mutate_json(data, generator)) is not None:
        return changed[:MAX_BYTES]
    content = bytearray(data)
    for _ in range(generator.choice((1, 1, 2, 4, 8))):
        _change(content, others, generator)
    return bytes(content[:MAX_BYTES])


def _mutate_json(data: bytes, generator: random.Random) -> bytes | None:
    start = data.find(b"{")
    text = data[max(0, start) :].decode("utf-8", "surrogateescape")
    try:
        document, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    if not document or not isinstance(document, dict):
        return None
    for _ in range(generator.choice((1, 1, 2, 4))):
        _change_value(document, generator)
    # Lone surrogates cannot be written as UTF-8: they go as escapes, which JSON allows.
    return data[:start] + json.dumps(document).encode() + text[end:].encode("utf-8", "surrogateescape")


def _change_value(document: Any, generator: random.Random) -> None:
    """Walk down to some value and put another in its place, remove it, or repeat it."""
    node = document
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = generator.choice(keys)
        if isinstance(node[key], dict | list) and node[key] and generator.random() < 0.8:
            node = node[key]
            continue
        break
    kind = generator.randrange(6)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, list):
        node.extend([node[key]] * generator.choice((1, 50, 400)))
    elif kind == 1:
        node[str(generator.choice(VALUES))[:40]] = node[key]
    else:
        node[key] = copy.deepcopy(generator.choice(VALUES))


def _change(content: bytearray, others: list[bytes], generator: random.Random) -> None:
    kind, at = generator.randrange(7), generator.randrange(len(content) + 1)
    if kind == 0 and content:
        content[at % len(content)] = generator.randrange(256)
    elif kind == 1 and content:
        content[at % len(content)] ^= 1 << generator.randrange(8)
    elif kind == 2:
        content[at:at] = generator.choice(PIECES)
    elif kind == 3:
        end = min(len(content), at + generator.randrange(1, 12))
        content[at:end] = generator.choice(PIECES)
    elif kind == 4:
        del content[at : at + generator.choice((1, 2, 8, 64))]
    elif kind == 5:
        block = bytes(content[at : at + generator.choice((1, 8, 64))])
        content[at:at] = block * generator.choice((2, 10, 200))
    else:
        other = generator.choice(others)
        content[at:] = other[generator.randrange(len(other) + 1) :]

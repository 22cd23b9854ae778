"""Hostile bytes: grown from seeds by small changes, splices, and pieces that have broken other programs."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

from tests.fuzz.targets import RoutesTarget

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
    if name == "routes":
        routes = range(len(RoutesTarget.ROUTES))
        job = json.dumps({"dataset_id": "0" * 32, "config": {"fit": {"max_steps": 5}}}).encode()
        promote = b'{"version": 1, "override": "because"}'
        return [bytes([route]) + b"plain\n" + body for route in routes for body in (forecast_body(), job, promote)]
    return []


def read_corpus(folder: Path) -> list[bytes]:
    """Inputs that were worth keeping: each was answered in a way that none before it was."""
    return [path.read_bytes() for path in sorted(folder.glob("*"))] if folder.is_dir() else []


def mutate(data: bytes, others: list[bytes], generator: random.Random) -> bytes:
    """One to eight changes."""
    content = bytearray(data)
    for _ in range(generator.choice((1, 1, 2, 4, 8))):
        _change(content, others, generator)
    return bytes(content[:MAX_BYTES])


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

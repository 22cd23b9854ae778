"""Compressed bodies: never more memory than the limit asks for."""

from __future__ import annotations

import gzip
import tracemalloc

import pytest
import zstandard

from app.errors import ProblemError
from app.services.unpacking import MAX_WINDOW_BYTES, unpack

MEBIBYTE = 2**20
ZEROS = bytes(64 * MEBIBYTE)
BOMBS = {"gzip": gzip.compress(ZEROS), "zstd": zstandard.compress(ZEROS)}


@pytest.mark.parametrize("encoding", BOMBS)
def test_a_bomb_is_refused_before_it_goes_off(encoding: str) -> None:
    """Sixty-four mebibytes of zeros in a few kilobytes are given up at the limit: at the peak little more than it was held."""
    tracemalloc.start()
    with pytest.raises(ProblemError, match="body_too_large"):
        unpack(BOMBS[encoding], encoding, MEBIBYTE)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * MEBIBYTE


@pytest.mark.parametrize("encoding", BOMBS)
def test_the_limit_itself_is_allowed(encoding: str) -> None:
    """Exactly so many bytes pass, one less does not."""
    assert unpack(BOMBS[encoding], encoding, len(ZEROS)) == ZEROS
    with pytest.raises(ProblemError, match="body_too_large"):
        unpack(BOMBS[encoding], encoding, len(ZEROS) - 1)


def test_a_frame_cannot_ask_for_memory() -> None:
    """A small zstd frame that makes its reader allocate 128 MiB is refused."""
    parameters = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    frame = compressor.compress(b"x") + compressor.flush()
    assert zstandard.get_frame_parameters(frame).window_size > MAX_WINDOW_BYTES
    with pytest.raises(ProblemError, match="encoding_invalid"):
        unpack(frame, "zstd", MEBIBYTE)

"""Compressed request bodies: unpacked piece by piece, and no further than the limit."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping

import zstandard

from app.errors import ProblemError

PIECE_BYTES = 64 * 1024
# What every decoder of zstd must support (RFC 8878, 3.1.1.1.2); a frame that asks for more memory is refused.
MAX_WINDOW_BYTES = 8 * 1024 * 1024
_GZIP = 16 + zlib.MAX_WBITS


def unpack(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """The body as it was before compression.

    Args:
        body: As it came.
        encoding: A key of `DECODERS`.
        max_bytes: Most it may unpack to; nothing beyond is unpacked.

    Raises:
        ProblemError: `encoding_invalid` if it is not what the encoding says, `body_too_large` beyond the limit.
    """
    pieces: list[bytes] = []
    num_bytes = 0
    try:
        for piece in DECODERS[encoding](body):
            num_bytes += len(piece)
            if num_bytes > max_bytes:
                raise ProblemError("body_too_large", f"The body must unpack to at most {max_bytes} bytes.")
            pieces.append(piece)
    except (zlib.error, zstandard.ZstdError, EOFError):
        detail = f"The body must be whole and compressed with {encoding}, as its Content-Encoding says."
        raise ProblemError("encoding_invalid", detail) from None
    return b"".join(pieces)


def _unpack_gzip(body: bytes) -> Iterator[bytes]:
    while body:  # members may follow each other
        decoder = zlib.decompressobj(_GZIP)
        while not decoder.eof:
            piece = decoder.decompress(body, PIECE_BYTES)
            body = decoder.unconsumed_tail
            if not piece and not body and not decoder.eof:
                raise EOFError
            yield piece
        body = decoder.unused_data


def _unpack_zstd(body: bytes) -> Iterator[bytes]:
    decoder = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    with decoder.stream_reader(body, read_across_frames=True) as reader:
        while piece := reader.read(PIECE_BYTES):
            yield piece


DECODERS: Mapping[str, Callable[[bytes], Iterator[bytes]]] = {"gzip": _unpack_gzip, "zstd": _unpack_zstd}

"""Seeded mutations of files: bytes cut off, flipped, added and moved, headers and sizes damaged."""

from __future__ import annotations

import zlib

import numpy as np

SIZES = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", b"\0\0\1\0")


def mutated(content: bytes, reader: str, number: int) -> bytes:
    """Return the given file with one to three mutations, the same for equal arguments."""
    rng = np.random.default_rng([zlib.crc32(reader.encode()), number])
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        near_start = rng.random() < 0.5
        at = int(rng.integers(min(len(data), 80) if near_start else len(data))) if data else 0
        kind = int(rng.integers(8))
        if kind == 0:
            del data[at:]
        elif kind == 1:
            for place in rng.integers(max(len(data), 1), size=int(rng.integers(1, 9))).tolist():
                data[place : place + 1] = bytes([(data[place] if data else 0) ^ 1 << place % 8])
        elif kind == 2:  # the header
            data[at % 40 : at % 40 + 4] = rng.bytes(4)
        elif kind == 3:  # sizes and offsets
            data[at : at + 4] = SIZES[int(rng.integers(len(SIZES)))]
        elif kind == 4:
            data += rng.bytes(int(rng.integers(1, 300)))
        elif kind == 5:
            data[at : at + 64] = bytes(64)
        elif kind == 6:
            data[at:at] = data[: int(rng.integers(1, 200))]
        else:
            del data[at : at + int(rng.integers(1, 64))]
    return bytes(data)

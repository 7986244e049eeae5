"""Numeric arrays of MATLAB files of version 5 to 7 (MathWorks, MAT-File Format, chapter 1).

A file is a header of 128 bytes and a list of elements (type, size, contents), some of them deflated. scipy.io reads
more kinds of arrays, but damaged files end it with a segmentation fault, and it has no limit.
"""

import struct
import zlib
from collections.abc import Iterator

import numpy as np

MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
ARRAYS = range(1, 16)  # classes: cell, struct, object, char, sparse, and
NUMERIC = range(6, 16)  # double, single, int8, ..., uint64
COMPLEX = 0x0800


def read_mat(data: bytes, largest: int) -> dict[str, np.ndarray | None]:
    """Return the arrays of a file by name; None where one holds no numbers. largest: bytes of an array. Raises
    ValueError and zlib.error on other and damaged files."""
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None or data.startswith(b"MATLAB 7.3"):
        raise ValueError("MATLAB files of version 5 to 7 are read; save it with -v7")
    found = {}
    for kind, body in _elements(data[128:], order):
        if kind == COMPRESSED:
            inflate = zlib.decompressobj()
            body = inflate.decompress(body, largest)
            if inflate.unconsumed_tail:
                raise ValueError(f"an array of more than {largest} bytes is not read")
            kind, body = next(_elements(body, order))
        if kind == MATRIX:
            (_, flags), *rest = _elements(body, order)
            flag = struct.unpack_from(f"{order}I", flags)[0]
            if flag & 255 in ARRAYS and (name := rest[1][1].decode()):  # others are objects and what belongs to them
                found[name] = _numbers(rest, order, bool(flag & COMPLEX)) if flag & 255 in NUMERIC else None
    return found


def _numbers(parts: list[tuple[int, bytes]], order: str, is_complex: bool) -> np.ndarray:
    (_, sides), _, *stored = parts
    shape = np.frombuffer(sides, f"{order}i4")
    real, *imaginary = [
        np.frombuffer(values, order + NUMBERS[kind]).reshape(shape, order="F") for kind, values in stored
    ]
    return real + 1j * imaginary[0] if is_complex else real


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        if kind >> 16:  # up to four bytes stand in the place of their size, and the size beside the type
            kind, size, start, after = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        else:
            start = at + 8
            after = start + size + (0 if kind == COMPRESSED else -size % 8)
        if start + size > len(data):
            raise ValueError("it is cut short")
        yield kind, data[start : start + size]
        at = after

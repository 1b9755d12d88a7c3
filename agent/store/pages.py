"""Records of a database that SQLite cannot read any more: every page is looked at by itself, whatever refers to it.

Only what is needed is understood: cells of indexes, as tables without rowid are kept, whose record has text and numbers. What is
found is proven by whoever asks: a record of the log carries its own hash. Source of the format: https://sqlite.org/fileformat2.html
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Optional, Union

Value = Union[int, str, None]

DEFAULT_PAGE_BYTES = 4096
_MAGIC = b"SQLite format 3\0"
_INTERIOR, _LEAF = 2, 10
_WAL_HEADER, _FRAME_HEADER = 32, 24
_INTEGER_BYTES = (0, 1, 2, 3, 4, 6, 8)
_MAX_PAYLOAD = 64 * 1024 * 1024


class Pages:
    """The pages of a database, and those of its write-ahead log, whether SQLite would still take them or not.

    Args:
        path: the database. Use as a context.
    """

    def __init__(self, path: Path):
        self._files: list[BinaryIO] = []
        self._places: list[tuple[BinaryIO, int, int]] = []
        self.bytes = DEFAULT_PAGE_BYTES
        for name, header, between in ((path, 0, 0), (path.with_name(f"{path.name}-wal"), _WAL_HEADER, _FRAME_HEADER)):
            if name.exists():
                file = name.open("rb")
                self._files.append(file)
                self._places.append((file, header, between))
        if self._places:
            head = self._places[0][0].read(100)
            told = int.from_bytes(head[16:18], "big")
            told = 65536 if told == 1 else told
            if head.startswith(_MAGIC) and told >= 512 and not told & (told - 1):
                self.bytes = told

    def __enter__(self) -> Pages:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def rows(self, columns: int) -> Iterator[tuple[Value, ...]]:
        """Every row of so many columns that any page holds; some more than once, some that were deleted or never committed."""
        for file, header, between in self._places:
            stride = self.bytes + between
            count = (os.fstat(file.fileno()).st_size - header) // stride
            for number in range(count):
                file.seek(header + number * stride + between)
                yield from self._cells(file.read(self.bytes), columns, first=not between and number == 0)

    def _cells(self, page: bytes, columns: int, *, first: bool) -> Iterator[tuple[Value, ...]]:
        start = 100 if first else 0
        if len(page) < self.bytes or page[start] not in (_INTERIOR, _LEAF):
            return
        pointers = start + (12 if page[start] == _INTERIOR else 8)
        for number in range(min(int.from_bytes(page[start + 3 : start + 5], "big"), self.bytes // 4)):
            at = int.from_bytes(page[pointers + 2 * number : pointers + 2 * number + 2], "big")
            try:
                row = _record(self._payload(page, at + (4 if page[start] == _INTERIOR else 0)), columns)
            except (IndexError, ValueError):
                continue
            if row is not None:
                yield row

    def _payload(self, page: bytes, at: int) -> bytes:
        """What a cell holds, with what of it lies on further pages. Raises ValueError, IndexError."""
        size, at = _varint(page, at)
        if not 0 < size <= _MAX_PAYLOAD:
            raise ValueError("no cell")
        most, least = (self.bytes - 12) * 64 // 255 - 23, (self.bytes - 12) * 32 // 255 - 23
        if size <= most:
            here = size
        else:
            here = least + (size - least) % (self.bytes - 4)
            here = here if here <= most else least
        content = page[at : at + here]
        if len(content) < here:
            raise ValueError("no cell")
        further = int.from_bytes(page[at + here : at + here + 4], "big") if here < size else 0
        parts, left = [content], size - here
        while left:
            beyond = self._page(further)
            parts.append(beyond[4 : 4 + left])
            left -= len(parts[-1])
            further = int.from_bytes(beyond[:4], "big")
        return b"".join(parts)

    def _page(self, number: int) -> bytes:
        file = self._places[0][0]
        if number < 2:
            raise ValueError("no page")
        file.seek((number - 1) * self.bytes)
        page = file.read(self.bytes)
        if len(page) < self.bytes:
            raise ValueError("no page")
        return page


def _record(payload: bytes, columns: int) -> Optional[tuple[Value, ...]]:
    """The values of a record; None when it has another number of columns, or one that is no text or integer."""
    head, at = _varint(payload, 0)
    types = []
    while at < head:
        kind, at = _varint(payload, at)
        types.append(kind)
        if len(types) > columns:
            return None
    if len(types) != columns or at != head:
        return None
    values: list[Value] = []
    for kind in types:
        if kind <= 6:
            size = _INTEGER_BYTES[kind]
            values.append(int.from_bytes(payload[at : at + size], "big", signed=True) if kind else None)
        elif kind in (8, 9):
            size = 0
            values.append(kind - 8)
        elif kind >= 13 and kind % 2:
            size = (kind - 13) // 2
            values.append(payload[at : at + size].decode("utf-8"))
        else:
            return None
        at += size
    return tuple(values) if at == len(payload) else None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of one to nine bytes, and where it ends. Raises IndexError."""
    value = 0
    for count in range(8):
        byte = data[at + count]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + count + 1
    return value << 8 | data[at + 8], at + 9

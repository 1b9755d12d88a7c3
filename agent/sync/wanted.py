"""What is asked for besides records: which data files, and whether what jobs printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from ..errors import InvalidRecord
from ..matching import parse_match, parse_terms
from ..quantities import bytes_of
from ..records import JSON

MAX_TERMS = 100


@dataclass(frozen=True)
class DataRequest:
    """Which files shall be brought, or taken, to where they are not yet.

    Args:
        data: whether files that were put, with metadata. ``match``: only those whose properties fulfil all these terms.
        outputs: whether what jobs printed, which has no metadata.
        min_bytes, max_bytes: only files of such sizes, of either kind; None: however large.
    """

    data: bool = False
    match: tuple[str, ...] = ()
    outputs: bool = False
    min_bytes: int = 0
    max_bytes: Optional[int] = None

    @classmethod
    def parse(
        cls,
        data: Sequence[str] = (),
        *,
        outputs: bool = False,
        min_size: Optional[str] = None,
        max_size: Optional[str] = None,
    ) -> DataRequest:
        """From a command line: ``--data all``, ``--data none``, or terms as of ``find``; sizes as ``1G``.

        Raises:
            InvalidRecord: that makes no sense.
        """
        words = [word for word in data if word not in ("all", "none")]
        if len(words) < len(data) and len(data) > 1:
            raise InvalidRecord("--data all and --data none stand alone", hint="give only conditions, as kind=thermo")
        parse_match(parse_terms(words))
        return cls(bool(data) and data[0] != "none", tuple(words), outputs, _size(min_size) or 0, _size(max_size))

    @property
    def empty(self) -> bool:
        """Whether nothing is asked for."""
        return not self.data and not self.outputs

    def to_json(self) -> JSON:
        """As it travels."""
        body: JSON = {"data": self.data, "match": list(self.match), "outputs": self.outputs}
        body.update(min_bytes=self.min_bytes, max_bytes=self.max_bytes)
        return body

    @classmethod
    def from_json(cls, body: Any) -> DataRequest:
        """As it came.

        Raises:
            InvalidRecord: it is none.
        """
        given: Mapping[str, Any] = body if isinstance(body, Mapping) else {"match": body}
        match, least, most = given.get("match") or [], given.get("min_bytes") or 0, given.get("max_bytes")
        if not isinstance(match, (list, tuple)) or len(match) > MAX_TERMS or not all(isinstance(t, str) for t in match):
            raise InvalidRecord("match must be a list of conditions")
        for number in (least, most):
            if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 0):
                raise InvalidRecord("a size must be a number of bytes")
        parse_match(parse_terms(match))
        return cls(bool(given.get("data")), tuple(match), bool(given.get("outputs")), least, most)


def _size(text: Optional[str]) -> Optional[int]:
    if text is None:
        return None
    count = bytes_of(text)
    if count is None:
        raise InvalidRecord(f"{text!r} is not a size", hint="write 500K, 64M or 1G")
    return count

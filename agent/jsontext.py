"""JSON as text, compact: how records, the journal of a worker and messages are written.

``json.JSONEncoder.encode`` builds its machinery anew for every value, which takes longer than to encode a short one; here it
is built once.
"""

from __future__ import annotations

import json
import json.encoder
from collections.abc import Callable
from typing import Any, Optional

Encode = Callable[[Any], str]


def _compact(*, ascii_only: bool, allow_nan: bool) -> Encode:
    make: Optional[Any] = getattr(json.encoder, "c_make_encoder", None)
    usual = json.JSONEncoder(ensure_ascii=ascii_only, separators=(",", ":"), allow_nan=allow_nan)
    if make is None:  # an interpreter without the accelerator
        return usual.encode
    quote = json.encoder.encode_basestring_ascii if ascii_only else json.encoder.encode_basestring
    encoder = make(None, usual.default, quote, None, ":", ",", False, False, allow_nan)

    def encode(value: Any) -> str:
        return "".join(encoder(value, 0))

    return encode


compact = _compact(ascii_only=False, allow_nan=True)
"""A value as JSON, its text as it is."""
compact_ascii = _compact(ascii_only=True, allow_nan=True)
"""A value as JSON in ASCII: also what no UTF-8 can say, such as the undecodable bytes of a file name, survives."""
strict = _compact(ascii_only=False, allow_nan=False)
"""Like :data:`compact`; raises ValueError for what JSON has no word for, such as NaN."""
strict_ascii = _compact(ascii_only=True, allow_nan=False)
"""Like :data:`compact_ascii`; raises ValueError likewise."""

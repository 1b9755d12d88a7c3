"""JSON as text: the same as the standard library writes, only sooner."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lwfm import jsontext

VALUES: list[Any] = [
    None, True, 0, -1.5, 2**70, "", "plain", "\u00fc \u4f60", "\udc80", 'quote " and \n', [], {}, [1, [2, {"a": None}]],
    {"a": {"b": [1.0, "x"]}, "\u00e9": "\x00"},
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_it_is_what_the_library_writes(value: Any) -> None:
    assert jsontext.compact(value) == json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    assert jsontext.compact_ascii(value) == json.dumps(value, separators=(",", ":"))
    assert jsontext.strict(value) == jsontext.compact(value)
    assert jsontext.strict_ascii(value) == jsontext.compact_ascii(value)


@pytest.mark.parametrize("value", [float("nan"), [float("inf")]])
def test_strict_refuses_what_json_has_no_word_for(value: Any) -> None:
    for encode in (jsontext.strict, jsontext.strict_ascii):
        with pytest.raises(ValueError):
            encode(value)
    assert jsontext.compact_ascii(value) == json.dumps(value)


def test_what_is_not_json_is_refused() -> None:
    with pytest.raises(TypeError):
        jsontext.compact({"a": object()})
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(RecursionError):
        jsontext.compact(circle)


def test_without_the_accelerator_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json.encoder, "c_make_encoder", None)
    plain = jsontext._compact(ascii_only=True, allow_nan=False)
    assert [plain(value) for value in VALUES] == [jsontext.strict_ascii(value) for value in VALUES]

"""The first steps of the one file: on which interpreters and systems it refuses, and with which words."""

from __future__ import annotations

import os
import platform
import sys
from types import SimpleNamespace

import lwfm_start
import pytest


@pytest.mark.parametrize(
    ("uname", "said"),
    [
        (("Linux", "ppc64le"), "Linux on ppc64le"),
        (("Darwin", "arm64"), "Darwin on arm64"),
        (("Linux", "armv7l"), "Linux on armv7l"),
    ],
)
def test_another_system_or_processor_is_refused(
    monkeypatch: pytest.MonkeyPatch, uname: tuple[str, str], said: str
) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(sysname=uname[0], machine=uname[1]))
    with pytest.raises(lwfm_start.Refused, match=f"{said}.*x86_64 and aarch64.*source"):
        lwfm_start.check_interpreter()


def test_32_bits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)
    with pytest.raises(lwfm_start.Refused, match="32 bits"):
        lwfm_start.check_interpreter()


def test_a_newer_python_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 15, 0, "final", 0))
    with pytest.raises(lwfm_start.Refused, match=r"this is cpython 3\.15 .*CPython 3\.9 to 3\.14"):
        lwfm_start.check_interpreter()


def test_another_implementation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "implementation", SimpleNamespace(name="pypy"))
    with pytest.raises(lwfm_start.Refused, match=r"this is pypy 3"):
        lwfm_start.check_interpreter()


def test_a_free_threaded_python_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "abiflags", "t", raising=False)
    with pytest.raises(lwfm_start.Refused, match="free-threaded"):
        lwfm_start.check_interpreter()


def test_this_one_is_not_refused() -> None:
    lwfm_start.check_interpreter()
    assert lwfm_start.target() == f"cp{sys.version_info[0]}{sys.version_info[1]}-{platform.machine()}"


@pytest.mark.parametrize("answer", [None, "", "musl", ValueError(), OSError()])
def test_a_c_library_that_does_not_tell(monkeypatch: pytest.MonkeyPatch, answer: object) -> None:
    def confstr(_: str) -> object:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(os, "confstr", confstr)
    assert lwfm_start.libc()[1] == ()


def test_the_c_library_tells_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "confstr", lambda _: "glibc 2.28.9000")
    assert lwfm_start.libc() == ("glibc", (2, 28))

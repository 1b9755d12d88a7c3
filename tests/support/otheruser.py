"""Another user of the same node: a child of the test with another uid, which needs the test to be root's."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

import pytest

OTHER = 54321
"""The uid and gid of somebody who is neither root nor the owner of anything."""


@pytest.fixture
def stranger_uid() -> int:
    """The other user's uid; the test is skipped where one cannot become somebody else."""
    if os.getuid() != 0:
        pytest.skip("only root can try what another user can do")
    return OTHER


@pytest.fixture
def scratch(stranger_uid: int) -> Iterator[Path]:
    """A directory as /tmp is: all may write there, nobody may touch what is another's."""
    place = Path(tempfile.mkdtemp(prefix="lwfm-scratch-"))
    place.chmod(0o1777)
    yield place
    shutil.rmtree(place)


def _fork() -> int:
    """A child that does a few system calls and ends: harmless also beside threads, of which newer Pythons warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def as_other(action: Callable[[], Any]) -> Any:
    """What ``action`` gives when the other user does it, JSON; an ``OSError`` comes as the name of its class."""
    reading, writing = os.pipe()
    child = _fork()
    if child == 0:
        told: Any = "failed"
        try:
            os.setgroups([])
            os.setgid(OTHER)
            os.setuid(OTHER)
            told = action()
        except OSError as error:
            told = type(error).__name__
        finally:
            os.write(writing, json.dumps(told).encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = json.loads(pipe.read())
    os.waitpid(child, 0)
    return answer


@contextmanager
def other_process(action: Callable[[], Any]) -> Iterator[None]:
    """The other user does something that takes until the block ends; it begins when ``action`` has first returned true."""
    reading, writing = os.pipe()
    child = _fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(OTHER)
            os.setuid(OTHER)
            while not action():
                pass
            os.write(writing, b"x")
            while True:
                action()
        finally:
            os._exit(0)
    os.close(writing)
    try:
        assert os.read(reading, 1) == b"x", "the other user could not begin"
        yield
    finally:
        os.close(reading)
        os.kill(child, 9)
        os.waitpid(child, 0)

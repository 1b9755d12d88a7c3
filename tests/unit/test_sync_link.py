"""The line of a site to another instance, with a far side that does not answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Optional

import pytest

from lwfm.client import Client, find_endpoint
from lwfm.errors import InvalidRecord, NotFound, SiteError
from lwfm.sync import link as links
from lwfm.sync.address import Address
from lwfm.sync.frames import Cut, Line
from lwfm.sync.link import Link
from lwfm.sync.site import SshRun
from lwfm.sync.transport import Asker


class Far:
    """The far side, as the link sees it."""

    def __init__(self) -> None:
        self.opened = self.beside = 0
        self.full = False

    @contextmanager
    def connected(self, address: Address, ask: Optional[Asker]) -> Iterator[Line]:
        self.opened += 1
        yield Line(None)  # type: ignore[arg-type]  # nothing is sent in these tests

    @contextmanager
    def connected_beside(self, line: Line, address: Address) -> Iterator[Line]:
        if self.full:
            raise SiteError("no more sessions")
        self.beside += 1
        yield Line(None)  # type: ignore[arg-type]


class Told:
    origin, host = "0" * 32, "far"


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> Far:
    made = Far()
    monkeypatch.setattr(links, "connected", made.connected)
    monkeypatch.setattr(links, "connected_beside", made.connected_beside)
    monkeypatch.setattr("lwfm.sync.link.RemoteReplica.hello", lambda _self, _digest: Told())
    monkeypatch.setattr(links, "AT_ONCE_S", 0.05)
    monkeypatch.setattr(links, "ANSWER_S", 0.2)
    return made


@pytest.fixture
def link(far: Far) -> Link:
    made = Link(Address("far"), "cluster")
    made.open(None)
    return made


def test_what_is_answered_at_once_is_heard(link: Link) -> None:
    def refuse(_: Line) -> None:
        raise InvalidRecord("no")

    with pytest.raises(InvalidRecord):
        link.ask_at_once(refuse)
    link.ask_at_once(lambda _: None)


def test_nothing_is_opened_for_it(far: Far) -> None:
    asked: list[Line] = []
    Link(Address("far"), "cluster").ask_at_once(asked.append)
    assert (asked, far.opened) == ([], 0)


def test_who_does_not_answer_is_not_waited_for(link: Link) -> None:
    release, ended = threading.Event(), threading.Event()

    def hang(_: Line) -> None:
        release.wait(60)
        ended.set()

    began = time.monotonic()
    for _ in range(3):
        link.ask_at_once(hang)
    assert time.monotonic() - began < 30, "nobody waits for the answer"
    asked: list[str] = []
    waiting = threading.Thread(target=lambda: asked.append(link.ask(lambda _, there: there.origin)))
    waiting.start()
    waiting.join(0.1)
    assert asked == [], "half an answer may be on the line: who is next has to wait for the rest of it"
    release.set()
    waiting.join(60)
    assert ended.is_set()
    assert asked == [Told.origin]


def test_a_line_that_breaks_meanwhile_is_opened_again_by_the_next(link: Link, far: Far) -> None:
    def cut(_: Line) -> None:
        raise Cut("it broke")

    link.ask_at_once(cut)
    assert not link.is_open
    assert link.ask(lambda _, there: there.host) == "far"
    assert far.opened == 2


def test_what_takes_long_holds_up_nothing(link: Link, far: Far) -> None:
    begun, release = threading.Event(), threading.Event()

    def long(_: Line, there: links.There) -> str:
        begun.set()
        release.wait(60)
        return there.host

    came: list[str] = []
    moving = threading.Thread(target=lambda: came.append(link.ask_apart(long)))
    moving.start()
    assert begun.wait(60)
    assert link.ask(lambda _, there: there.origin) == Told.origin
    release.set()
    moving.join(60)
    assert (came, far.opened, far.beside) == (["far"], 1, 1)


def test_where_no_second_line_is_to_be_had_the_one_has_to_do(link: Link, far: Far) -> None:
    far.full = True
    assert link.ask_apart(lambda _, there: there.host) == "far"
    assert (far.opened, far.beside) == (1, 0)


def test_what_is_cut_off_goes_over_the_one_line(link: Link, far: Far) -> None:
    lines: list[Line] = []

    def once_cut(line: Line, there: links.There) -> str:
        lines.append(line)
        if len(lines) == 1:
            raise Cut("it broke")
        return there.host

    assert link.ask_apart(once_cut) == "far"
    assert lines[0] is not lines[1]
    assert far.beside == 1


class TestWhatBelongsToAJob:
    def run(self, link: Link) -> SshRun:
        return SshRun("cluster", link, Client(find_endpoint(Path("/nowhere"))), "local", None)

    def test_an_instance_that_has_not_got_it(self, link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
        def exchange(*_: object) -> None:
            raise NotFound("no job 7")

        monkeypatch.setattr("lwfm.sync.calls.RemoteApi.exchange", exchange)
        run = self.run(link)
        with pytest.raises(NotFound, match="no job 7"):
            run.cancel("7", 1, "enough")
        assert run.output("7", "stdout", 0, 10) == b""

    def test_lwfm_that_is_gone_there_says_nothing_of_it(self, link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
        """It may be running: that it cannot be asked is no reason to take it for stopped."""

        def connected(*_: object) -> None:
            raise NotFound("there is no lwfm at ~/lwfm.pyz on far")

        link.close()
        monkeypatch.setattr(links, "connected", connected)
        run = self.run(link)
        for ask in (lambda: run.cancel("7", 1, "enough"), lambda: run.output("7", "stdout", 0, 10)):
            with pytest.raises(SiteError, match="no lwfm at") as raised:
                ask()
            assert not isinstance(raised.value, NotFound)
            assert raised.value.transient

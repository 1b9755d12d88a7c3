from __future__ import annotations

import os
import pty
import threading
import time
from typing import Any

import pytest

from lwfm.cli.progress import Bar, Lines, Progress, Quiet, Rate, choose_meter, follow
from lwfm.cli.screen import Screen


class Asked:
    """A client that gives these answers, one after another."""

    def __init__(self, *answers: dict[str, Any]):
        self.answers = list(answers)
        self.queries: list[dict[str, Any]] = []

    def get(self, path: str, query: dict[str, Any]) -> Any:
        assert path == "/v1/progress"
        self.queries.append(query)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def post(self, path: str, body: dict[str, Any], *, repeatable: bool) -> Any:
        assert repeatable
        return self.get(path, body)


class Shown:
    """A meter that remembers."""

    call_s = 3.0

    def __init__(self) -> None:
        self.shown: list[Progress] = []
        self.closed = False

    def show(self, progress: Progress) -> None:
        self.shown.append(progress)

    def close(self) -> None:
        self.closed = True


def answer(revision: int, active: int, **counts: int) -> dict[str, Any]:
    return {"revision": revision, "counts": counts, "total": sum(counts.values()), "active": active}


def test_follow_to_the_end_of_a_workflow() -> None:
    client = Asked(answer(1, 2, RUNNING=2), answer(2, 1, RUNNING=1, COMPLETE=1), answer(3, 0, COMPLETE=1, FAILED=1))
    meter = Shown()
    last = follow(client, meter, lambda seen: seen.active == 0, workflow="w")  # type: ignore[arg-type]
    assert (last.ended, last.failed, last.total) == (2, 1, 2)
    assert [query["since"] for query in client.queries] == [None, 1, 2]
    assert [query["timeout_s"] for query in client.queries] == [0, 3.0, 3.0]
    assert len(meter.shown) == 3
    assert meter.closed


def test_follow_jobs_until_a_deadline() -> None:
    client = Asked(answer(1, 1, RUNNING=1))
    begun = time.monotonic()
    last = follow(client, Quiet(), lambda seen: False, jobs=["a"], deadline=begun + 0.05)  # type: ignore[arg-type]
    assert last.running == 1
    assert client.queries[0]["jobs"] == ["a"]


def test_the_meter_is_closed_when_something_goes_wrong() -> None:
    class Broken:
        def get(self, *_: Any) -> Any:
            raise KeyboardInterrupt

    meter = Shown()
    with pytest.raises(KeyboardInterrupt):
        follow(Broken(), meter, lambda seen: False, workflow="w")  # type: ignore[arg-type]
    assert meter.closed


def test_less() -> None:
    seen = Progress({"COMPLETE": 5, "RUNNING": 1}, 6, 1, 2)
    assert seen.less(Progress({"COMPLETE": 2, "RUNNING": 1}, 3)) == Progress({"COMPLETE": 3}, 3, 1, 2)


def test_lines_come_when_something_changed_and_not_too_often(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("lwfm.cli.progress.time.monotonic", lambda: now[0])
    lines = Lines()
    for passed_s, done in ((0.0, 0), (0.5, 1), (1.6, 2), (5.0, 2), (1.0, 4)):
        now[0] += passed_s
        lines.show(Progress({"COMPLETE": done, "RUNNING": 4 - done}, 4))
    said = [line.split(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert said == ["lwfm: 0/4 done", "lwfm: 2/4 done", "lwfm: 4/4 done"]


def test_nothing_is_said_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Lines().show(Progress())
    assert capsys.readouterr().err == ""


def test_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("lwfm.cli.progress.time.monotonic", lambda: now[0])
    rate = Rate()
    rate.see(Progress({"COMPLETE": 10}, 100))
    assert rate.text(Progress({"COMPLETE": 10}, 100)) == ""
    now[0] = 10.0
    assert rate.text(Progress({"COMPLETE": 30}, 100)) == ", 2/s, ETA 35s"
    assert rate.text(Progress({"COMPLETE": 12010}, 24010)) == ", 1200/s, ETA 10s"
    assert rate.text(Progress({"COMPLETE": 100}, 100)) == ""


def test_a_bar_makes_way_for_other_output(monkeypatch: pytest.MonkeyPatch) -> None:
    primary, secondary = pty.openpty()
    with os.fdopen(secondary, "w") as terminal:
        monkeypatch.setattr("lwfm.cli.progress.sys.stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("NO_COLOR", "1")
        screen = Screen()
        meter = choose_meter(screen)
        assert isinstance(meter, Bar)
        meter.show(Progress({"COMPLETE": 1}, 2))
        screen.write(lambda: terminal.write("said\n"), ends_line=True)
        screen.write(lambda: terminal.write("half"), ends_line=False)
        meter.show(Progress({"COMPLETE": 2}, 2))
        screen.write(lambda: terminal.write(" whole\n"), ends_line=True)
        meter.close()
        terminal.flush()
        shown = ""
        while not shown.endswith("\r\x1b[K") or "half" not in shown:
            shown += os.read(primary, 65536).decode()
    os.close(primary)
    before, after = shown.split("said\r\n")
    assert before.endswith("1/2 done\r\x1b[K")  # the bar was taken away first
    assert after.split("half")[0].endswith("1/2 done\r\x1b[K")  # it came back
    assert after.split("half")[1].startswith(" whole")  # but not in the middle of somebody's line
    assert "\x1b[3" not in shown  # NO_COLOR


def test_a_screen_is_for_threads() -> None:
    screen = Screen()
    written: list[int] = []
    threads = [threading.Thread(target=screen.write, args=(lambda: written.append(1), True)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written) == 8


def test_quiet_where_asked() -> None:
    assert isinstance(choose_meter(quiet=True), Quiet)

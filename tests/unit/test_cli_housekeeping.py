"""What ``store size``, ``compact`` and ``prune`` ask of the agent and of the person."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lwfm.__main__ import main
from lwfm.cli import housekeeping

from support.fake_api import FakeApi, Request, in_use

JSON = dict[str, Any]


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    with in_use(tmp_path, monkeypatch) as fake:
        fake.replies["POST /v1/store/prune"] = pruned
        yield fake


class Person:
    """Sits at the terminal."""

    def __init__(self, answer: bool):
        self.answer = answer
        self.asked: list[str] = []

    def confirm(self, question: str) -> bool:
        self.asked.append(question)
        return self.answer


def pruned(request: Request) -> JSON:
    """Two parts, of three things together."""
    first = request.body["after"] is None
    kept = {"unsynced": 1} if first else {}
    return {
        "what": request.body["what"], "things": 2 if first else 1, "records": 4, "bytes": 2048, "kept": kept,
        "after": "more" if first else None,
    }  # fmt: skip


def asked(api: FakeApi) -> list[tuple[str, bool]]:
    found = [request.body for request in api.asked("POST", "/v1/store/prune")]
    return [(body["what"], bool(body.get("dry_run"))) for body in found if body["after"] is None]


def test_a_person_is_shown_what_would_go_and_asked(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    person = Person(True)
    monkeypatch.setattr(housekeeping, "terminal_asker", lambda: person)
    assert main(["store", "prune", "--history", "--outputs", "--logs", "--older-than", "30d"]) == 0
    whats = ["outputs", "jobs", "handlers", "workflows", "logs", "log files"]
    preview = [(what, True) for what in whats if what not in ("handlers", "workflows")]
    assert asked(api) == [*preview, *((what, False) for what in whats)]
    assert person.asked[0].startswith("Prune 12 things from before ")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["WHAT", "TO", "GO", "SIZE", "STAYS"]
    assert lines[1].split("  ")[-1] == "1 unsynced"
    assert any(line.startswith("outputs of jobs") and " 3 " in line and "4.0 KiB" in line for line in lines)


def test_no_is_no(api: FakeApi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(housekeeping, "terminal_asker", lambda: Person(False))
    assert main(["store", "prune", "--copies", "--larger-than", "10M"]) != 0
    assert asked(api) == [("copies", True)]
    assert "nothing was pruned" in capsys.readouterr().err
    assert api.asked("POST", "/v1/store/prune")[0].body["min_bytes"] == 10 * 2**20


def test_nobody_to_ask(api: FakeApi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(housekeeping, "terminal_asker", lambda: None)
    assert main(["store", "prune", "--outputs", "--older-than", "1d"]) == 2
    assert asked(api) == [("outputs", True)]
    assert "--yes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ([], "--outputs"),
        (["--older-than", "1d"], "--outputs"),
        (["--outputs"], "--older-than"),
        (["--history", "--larger-than", "10M"], "--older-than"),
        (["--history", "--older-than", "1d", "--larger-than", "10M"], "another call"),
    ],
)
def test_what_is_not_said_clearly_is_refused(
    api: FakeApi, words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["store", "prune", *words]) == 2
    assert hint in capsys.readouterr().err
    assert asked(api) == []


def test_compacting_is_stopped_with_the_command(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lwfm.client import Client

    api.replies["POST /v1/store/compact/stop"] = {}
    post = Client.post

    def interrupted(self: Client, path: str, *arguments: Any, **options: Any) -> Any:
        if path == "/v1/store/compact":
            raise KeyboardInterrupt
        return post(self, path, *arguments, **options)

    monkeypatch.setattr(Client, "post", interrupted)
    assert main(["store", "compact"]) == 130
    assert len(api.asked("POST", "/v1/store/compact/stop")) == 1
    assert "as before" in capsys.readouterr().err


def test_compacting(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    api.replies["POST /v1/store/compact"] = {"before": 3 * 2**20, "after": 2**20, "seconds": 0.5}
    assert main(["store", "compact"]) == 0
    assert capsys.readouterr().out == "3.0 MiB → 1.0 MiB, 2.0 MiB gained, in 0.50s\n"

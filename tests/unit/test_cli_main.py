from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

import lwfm
from lwfm import errors
from lwfm.__main__ import main
from lwfm.cli.errors import report
from lwfm.cli.main import ENTRIES

from support.commands import every_command
from support.fake_api import FakeApi

ROOT_COMMANDS = [name for section in ENTRIES.values() for name in section]


COMMANDS = list(every_command())


def fresh(*words: str, python: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    search = os.pathsep.join([os.path.dirname(os.path.dirname(lwfm.__file__)), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *python, *words],
        env={**os.environ, "PYTHONPATH": search, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lwfm {lwfm.__version__}\n"


def test_version_loads_next_to_nothing() -> None:
    program = "import sys; from lwfm.__main__ import main; main(['--version']); print(sorted(sys.modules))"
    loaded = fresh("-c", program).stdout
    for heavy in ("click", "rich", "http.client", "asyncio", "json", "dataclasses", "subprocess"):
        assert f"'{heavy}'" not in loaded, heavy


def test_help_loads_no_command() -> None:
    program = "import sys; from lwfm.__main__ import main; main(['--help']); print(sorted(sys.modules))"
    loaded = fresh("-c", program).stdout
    for heavy in ("rich", "lwfm.cli.jobs", "lwfm.cli.run", "lwfm.models"):
        assert f"'{heavy}'" not in loaded, heavy


def test_a_list_that_is_not_for_a_terminal_needs_no_rich(tmp_path: Path) -> None:
    program = "import sys; from lwfm.__main__ import main; main(['job', 'list']); print(sorted(sys.modules))"
    with FakeApi(tmp_path / "home", {"GET /v1/jobs": {"jobs": [{"job_id": "a", "state": "READY"}]}}) as api:
        loaded = fresh("-c", program, LWFM_HOME=str(api.home), LWFM_SOCKET=str(api.socket)).stdout
    assert "READY" in loaded
    for heavy in ("rich", "asyncio", "logging", "lwfm.library.manager", "tornado", "sqlite3", "psutil"):
        assert f"'{heavy}'" not in loaded, heavy


@pytest.mark.parametrize(("words", "command"), COMMANDS, ids=[" ".join(words) or "lwfm" for words, _ in COMMANDS])
def test_help(words: tuple[str, ...], command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Usage: lwfm" in shown
    if not isinstance(command, click.Group):
        assert "Example" in shown, "a command teaches with an example"
        assert f"lwfm {' '.join(words)}" in shown.split("Example", 1)[1], "and the example is of this command"


LISTINGS = [words for words, command in COMMANDS if words and words[-1] in ("list", "find", "statuses", "search")]


@pytest.mark.parametrize("words", LISTINGS, ids=" ".join)
def test_every_listing_has_json(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    main([*words, "--help"])
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["job"], ["site"]])
def test_a_group_alone_shows_its_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert "Usage:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["jbo"], "lwfm: no such command 'jbo': did you mean job?"),
        (["job", "lst"], "lwfm: no such command 'lst': did you mean list?"),
        (["qqq"], "lwfm: no such command 'qqq'"),
        (["job", "list", "--stat", "x"], "lwfm: no such option '--stat'"),
        (["job", "show"], "lwfm: missing argument 'JOB'"),
        (["job", "list", "--limit", "-1"], "lwfm: invalid value for '--limit'"),
        (
            ["submit", "--cores", "two", "--", "x"],
            "lwfm: invalid value for '--cores': 'two' is not a valid whole number",
        ),
        (
            ["node", "history", "--since", "foo"],
            "lwfm: invalid value for '--since': 'foo' is not a time: write 2026-05-01",
        ),
        (["completion", "print", "tcsh"], "lwfm: invalid value for '[bash|zsh|fish]': 'tcsh' is not one of"),
    ],
)
def test_usage_errors(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].replace(": --stat", " '--stat'").startswith(message)
    assert re.fullmatch(r"  → see: lwfm.* --help", lines[1])


@pytest.mark.parametrize("kind", errors._tree(errors.LwfmError).values(), ids=lambda kind: kind.__name__)
def test_our_errors(kind: type[errors.LwfmError], capsys: pytest.CaptureFixture[str]) -> None:
    assert report(kind("it\x1b[2J failed", hint="do\nthis"), debug=False) == kind.exit_code
    assert capsys.readouterr().err == "lwfm: it\\x1b[2J failed\n  → do\\nthis\n"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "lwfm: interrupted\n"),
        (click.Abort(), 130, "lwfm: interrupted\n"),
        (PermissionError(13, "Permission denied", "/x"), 1, "lwfm: /x: Permission denied\n"),
    ],
)
def test_other_errors(error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(error, debug=False) == code
    assert capsys.readouterr().err == said


def test_a_bug_is_called_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(ZeroDivisionError("division by zero"), debug=False) == 70
    said = capsys.readouterr().err
    assert "unexpected ZeroDivisionError" in said
    assert "--debug" in said
    assert "Traceback" not in said


def test_debug_shows_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["--debug", "--home", str(tmp_path / "file"), "job", "list"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    jobs = [{"job_id": str(number), "state": "READY", "name": "x" * 1000} for number in range(500)]
    search = os.path.dirname(os.path.dirname(lwfm.__file__))
    with FakeApi(tmp_path / "home", {"GET /v1/jobs": {"jobs": jobs}}) as api:
        process = subprocess.Popen(
            [sys.executable, "-m", "lwfm", "--home", str(api.home), "job", "list"],
            env={**os.environ, "PYTHONPATH": search},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert (process.stderr.read(), process.wait(30)) == (b"", 141)
        process.stderr.close()


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    search = os.path.dirname(os.path.dirname(lwfm.__file__))
    with full.open("w") as stream:
        done = subprocess.run(
            [sys.executable, "-m", "lwfm", "--help"],
            env={**os.environ, "PYTHONPATH": search},
            stdout=stream,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "lwfm: No space left on device\n")


def test_undecodable_names_are_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="ascii"))
    jobs = [{"job_id": "a", "state": "READY", "name": "caf\udce9 \u00e9"}]
    with FakeApi(tmp_path / "home", {"GET /v1/jobs": {"jobs": jobs}}) as api:
        assert main(["--home", str(api.home), "job", "list"]) == 0
    sys.stdout.flush()
    assert rb"caf\xe9 \xe9" in printed.getvalue()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(
    shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert main(["completion", "print", shell]) == 0
    source = capsys.readouterr().out
    assert "_LWFM_COMPLETE" in source
    assert main(["completion", "install", shell]) == 0
    (written,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written.read_text().strip() == source.strip()


def test_completion_completes() -> None:
    done = fresh("-m", "lwfm", _LWFM_COMPLETE="bash_complete", COMP_WORDS="lwfm job st", COMP_CWORD="2")
    assert {line.split(",")[1] for line in done.stdout.split()} == {"status", "statuses"}


def test_completion_of_an_unknown_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert main(["completion", "print"]) == 2

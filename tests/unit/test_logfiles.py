"""Logs that make way for new ones, with several processes that write at the same time."""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lwfm.daemon import LogHandler
from lwfm.errors import ConfigError
from lwfm.host.logfiles import SHARED_LOG, LogFile, Rotation

WRITER = """
import sys
from lwfm.host.logfiles import LogFile, Rotation
log = LogFile(sys.argv[1], Rotation(4096, 1000))
for number in range(int(sys.argv[3])):
    log.append(f"{sys.argv[2]} {number} {'x' * 50}\\n".encode())
"""
PRINTER = """
import sys, os
from lwfm.host.logfiles import LogFile, Rotation
log = LogFile(sys.argv[1], Rotation(4096, 3), (1, 2))
for number in range(600):
    os.write(1, f"{number} {'x' * 50}\\n".encode())
    log.append()
"""


def lines_of(log: Path) -> list[str]:
    files = [log, *log.parent.glob(f"{log.name}.*")]
    return [line for file in files for line in file.read_text().splitlines()]


def test_it_keeps_so_many_of_such_a_size(tmp_path: Path) -> None:
    log = LogFile(str(tmp_path / "a.log"), Rotation(4096, 3))
    for number in range(1000):
        log.append(f"{number:04d} {'x' * 94}\n".encode())
    files = {path.name: path for path in tmp_path.iterdir()}
    assert files.keys() <= {"a.log", "a.log.1", "a.log.2", "a.log.3"}
    assert len(files) >= 3
    assert all(path.stat().st_size <= 4096 + 100 for path in files.values())
    assert all(path.stat().st_mode & 0o077 == 0 for path in files.values())
    newest = sorted(line[:4] for line in lines_of(tmp_path / "a.log"))
    assert newest == [f"{number:04d}" for number in range(1000 - len(newest), 1000)]


def test_without_older_ones_it_begins_anew(tmp_path: Path) -> None:
    log = LogFile(str(tmp_path / "a.log"), Rotation(4096, 0))
    for _ in range(100):
        log.append(b"x" * 99 + b"\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a.log"]
    assert (tmp_path / "a.log").stat().st_size <= 4196


def test_no_line_is_lost_where_several_processes_write(tmp_path: Path) -> None:
    log, count = tmp_path / "a.log", 400
    words = [sys.executable, "-c", WRITER, str(log)]
    processes = [subprocess.Popen([*words, name, str(count)]) for name in "abcd"]
    assert [process.wait(60) for process in processes] == [0] * 4
    expected = sorted(f"{name} {number} {'x' * 50}" for name in "abcd" for number in range(count))
    assert sorted(lines_of(log)) == expected
    assert len(list(tmp_path.iterdir())) > 3  # a file may grow a little longer while another process puts it aside


def test_who_is_stopped_in_the_middle_stops_nobody(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    log = LogFile(str(path), Rotation(4096, 1))
    descriptor = log.open()
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    for _ in range(10):
        log.append(b"x" * 999 + b"\n")
    assert (path.stat().st_size, len(list(tmp_path.iterdir()))) == (10_000, 1)
    os.close(descriptor)
    log.append(b"end\n")
    assert {path.name for path in tmp_path.iterdir()} == {"a.log.1"}


def test_standard_output_goes_on_into_the_new_file(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    with log.open("ab") as stream:
        done = subprocess.run([sys.executable, "-c", PRINTER, str(log)], stdout=stream, stderr=stream, check=False)
    assert (done.returncode, log.with_name("a.log.4").exists()) == (0, False)
    numbers = sorted(int(line.split()[0]) for line in lines_of(log))
    assert numbers == list(range(numbers[0], 600))
    assert numbers[0] > 0
    assert all(path.stat().st_size <= 4200 for path in tmp_path.iterdir())


def test_another_output_is_left_alone(tmp_path: Path) -> None:
    log, other = tmp_path / "a.log", tmp_path / "other"
    with other.open("ab") as stream:
        subprocess.run([sys.executable, "-c", PRINTER, str(log)], stdout=stream, check=True)
    assert len(other.read_text().splitlines()) == 600


def test_as_a_handler(tmp_path: Path) -> None:
    handler = LogHandler(LogFile(str(tmp_path / "a.log"), Rotation(4096, 1)))
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    handler.handle(logging.LogRecord("x", logging.INFO, "x", 1, "said \udcff %s", ("this",), None))
    assert (tmp_path / "a.log").read_text() == "INFO said \\udcff this\n"


def test_configuration() -> None:
    assert SHARED_LOG.configured({}) == SHARED_LOG
    assert SHARED_LOG.configured({"LWFM_LOG_BYTES": "10M", "LWFM_LOG_FILES": "0"}) == Rotation(10 * 2**20, 0)
    for wrong in (
        {"LWFM_LOG_BYTES": "much"},
        {"LWFM_LOG_BYTES": "1"},
        {"LWFM_LOG_FILES": "-1"},
        {"LWFM_LOG_FILES": "1000"},
    ):
        with pytest.raises(ConfigError, match="LWFM_LOG_"):
            SHARED_LOG.configured(wrong)

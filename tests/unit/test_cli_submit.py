from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from lwfm.cli import submit
from lwfm.cli.submit import Template, chunks_of_lines, chunks_of_numbers
from lwfm.errors import InvalidRecord, NotFound
from lwfm.models import JobDefn


def job(template: Template, value: str) -> Any:
    body = json.loads(template.job_text(value))
    assert len(body.pop("job_id")) == 36
    return body


def test_the_value_goes_into_every_word() -> None:
    template = Template(("echo", "{}", "a{}b{}", "plain"), {"retries": 2}, lines_are_commands=False)
    assert job(template, "x y") == {"command": ["echo", "x y", "ax ybx y", "plain"], "retries": 2}


def test_the_value_goes_into_names_files_and_properties() -> None:
    fields = {"name": "n-{}", "outputs": ["o-{}", "p"], "inputs": ["i"], "meta": {"T": {}, "k": "s{}", "f": 1}}
    template = Template(("true",), fields, lines_are_commands=False)
    assert job(template, "7") == {
        "command": ["true"],
        "name": "n-7",
        "outputs": ["o-7", "p"],
        "inputs": ["i"],
        "meta": {"T": 7, "k": "s7", "f": 1},
    }


def test_without_fields() -> None:
    assert job(Template(("true",), {}, lines_are_commands=False), "x") == {"command": ["true"]}


def test_text_and_check_agree() -> None:
    fields = {"name": "n-{}", "meta": {"T": {}}, "resources": {"cores": 2}, "env": {"A": "{}"}}
    template = Template(("echo", "{}"), fields, lines_are_commands=False)
    assert template.check("3") == JobDefn.from_json(job(template, "3"))


def test_a_value_is_data_never_json() -> None:
    nasty = '"},"command":["rm"],"x":{"y":"\\'
    assert job(Template(("echo", "{}"), {}, lines_are_commands=False), nasty)["command"] == ["echo", nasty]


def test_lines_that_are_commands() -> None:
    assert job(Template((), {}, lines_are_commands=True), "a | b > c")["command"] == "a | b > c"


def test_no_command() -> None:
    with pytest.raises(InvalidRecord, match="no command"):
        Template((), {}, lines_are_commands=False)


@pytest.mark.parametrize(
    ("array", "numbers"),
    [("1-5", [1, 2, 3, 4, 5]), ("0-10:5", [0, 5, 10]), ("3-3", [3]), ("1-10:100", [1])],
)
def test_numbers(array: str, numbers: list[int]) -> None:
    assert [int(text) for chunk in chunks_of_numbers(array) for text in chunk] == numbers


def test_chunks_of_numbers_begin_small() -> None:
    assert [len(chunk) for chunk in chunks_of_numbers("1-700")] == [100, 250, 250, 100]


@pytest.mark.parametrize("array", ["", "5", "5-1", "1-5:0", "a-b", "1-5:2:3", "-1-5", "1 - 5"])
def test_not_numbers(array: str) -> None:
    with pytest.raises(InvalidRecord):
        chunks_of_numbers(array)


def test_lines(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_bytes(b"one\n\n  \ntwo words\r\n\xff\xfe\nlast")
    assert [line for chunk in chunks_of_lines(str(file)) for line in chunk] == [
        "one",
        "two words",
        os.fsdecode(b"\xff\xfe"),
        "last",
    ]


def test_many_lines_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "READ_BYTES", 1000)  # lines are cut by reads
    file = tmp_path / "lines"
    file.write_text("".join(f"{number}\n" for number in range(12_345)))
    chunks = list(chunks_of_lines(str(file)))
    assert [int(line) for chunk in chunks for line in chunk] == list(range(12_345))
    assert [len(chunk) for chunk in chunks[:3]] == [100, 250, 250]


def test_lines_of_a_slow_pipe_do_not_wait_for_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    saved = os.dup(0)
    os.dup2(reading, 0)
    try:
        got_first = threading.Event()
        os.write(writing, b"first\nsec")

        def produce() -> None:
            got_first.wait(10)
            os.write(writing, b"ond\n")
            os.close(writing)

        thread = threading.Thread(target=produce)
        thread.start()
        chunks = chunks_of_lines("-")
        assert next(chunks) == ["first"]
        got_first.set()
        assert list(chunks) == [["second"]]
        thread.join()
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(reading)


def test_lines_that_cannot_be(tmp_path: Path) -> None:
    for name in (str(tmp_path), str(tmp_path / "none")):
        with pytest.raises(NotFound):
            chunks_of_lines(name)
    file = tmp_path / "lines"
    file.write_bytes(b"good\nbad\0\n")
    with pytest.raises(InvalidRecord, match="line 2"):
        list(chunks_of_lines(str(file)))

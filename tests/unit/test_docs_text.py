"""What the documentation points to is there: its links, and each command of lwfm that is written in it, or in a hint."""

from __future__ import annotations

import ast
import importlib
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import click
import pytest

from lwfm.cli.main import cli
from lwfm.config import read_sites

from support.commands import every_command, options_of

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PROGRAM = re.compile(r"(?:^|(?<=[\s'\"(;&|]))(?:\./|~/|dist/)?lwfm(\.sh|\.pyz)? +(.*)")
OF_THE_SCRIPT = re.findall(r"^       \./lwfm\.sh (\w+) ", (ROOT / "lwfm.sh").read_text(encoding="utf-8"), re.MULTILINE)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(path: Path) -> set[str]:
    """The names by which the headings of a page can be linked to, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_link_leads_somewhere(path: Path) -> None:
    for target, anchor in LINK.findall(FENCE.sub("", path.read_text(encoding="utf-8"))):
        there = (path.parent / target).resolve() if target else path
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), f"{target}#{anchor}"


def test_every_page_can_be_found_from_the_first_one() -> None:
    found, new = {ROOT / "README.md"}, {ROOT / "README.md"}
    while new:
        linked = {
            (path.parent / target).resolve()
            for path in new
            for target, _ in LINK.findall(path.read_text(encoding="utf-8"))
            if target
        }
        new = {path for path in linked if path.suffix == ".md"} - found
        found |= new
    reached = found | set((ROOT / "docs" / "decisions").glob("*.md"))  # those are linked to as a directory
    assert not [name_of(path) for path in PAGES if path not in reached]


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_file_of_the_checkout_that_is_named_is_there(path: Path) -> None:
    for span in re.findall(r"`([^`\n]+)`", FENCE.sub("", path.read_text(encoding="utf-8"))):
        named = re.match(r"((?:agent|tests|build|examples|docs)/[\w/.-]*\w)(?:::\w+)?/?$", span)
        made_when_needed = named and named[1] in ("build/cache", "build/link")
        assert not named or made_when_needed or (ROOT / named[1]).exists(), span


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_python_in_a_page_is_python_and_imports_what_is_there(path: Path) -> None:
    for language, block in FENCE.findall(path.read_text(encoding="utf-8")):
        if language != "python" or re.match(r"# \w+\.py\n", block):  # pieces of a file have a test of their own
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lwfm":
                module = importlib.import_module(str(node.module))
                assert not [alias.name for alias in node.names if not hasattr(module, alias.name)]


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_toml_in_a_page_can_be_read_as_sites(path: Path, tmp_path: Path) -> None:
    for language, block in FENCE.findall(path.read_text(encoding="utf-8")):
        if language == "toml" and "[project" not in block:
            (tmp_path / "sites.toml").write_text(block, encoding="utf-8")
            assert len(read_sites(tmp_path / "sites.toml")) >= 2


def commands_in(text: str) -> Iterator[tuple[Optional[str], str]]:
    """The commands of lwfm in a page: what they begin with (``.sh``, ``.pyz`` or nothing), and the words after."""
    for language, block in FENCE.findall(text):
        for line in block.splitlines() if language in ("", "sh", "bash") else ():
            if re.match(r"(\$|ssh|exec|(\./|dist/)?lwfm(\.sh|\.pyz)?) ", line):
                yield from PROGRAM.findall(line)
    for span in re.findall(r"`([^`]+)`", FENCE.sub("", text)):
        if re.match(r"(\./|dist/)?lwfm(\.sh|\.pyz)?\s", span):
            yield from PROGRAM.findall(" ".join(span.split()))


def words_of(line: str) -> list[str]:
    line = re.sub(r"\s#\s.*$", "", line.replace("\\|", "|"))
    try:
        return shlex.split(line)
    except ValueError:  # part of what a shell is told, between its quotes
        return line.replace("'", " ").replace('"', " ").split()


def check(words: list[str], program: Optional[str] = "") -> None:
    """Go through a command as far as it is one: stop at what stands for something else.

    Raises:
        AssertionError: there is no such command or option.
    """
    if program == ".sh" and (not words or words[0] in OF_THE_SCRIPT):
        return
    command: Any = cli
    while words:
        word, words = words[0], words[1:]
        if word in ("--", "|", ">", "&&", ";") or not word.isascii():
            return
        if word.startswith("-"):
            option = word.split("=")[0].rstrip(")`,.:")
            known = {name: known for known in options_of(command) for name in (*known.opts, "--help")}
            assert option in known or option in ("--help", "-h"), f"{command.name} has no {option}"
            if option in known and not known[option].is_flag and "=" not in word:
                words = words[1:]
        elif not isinstance(command, click.Group):
            if command.name in ("run", "python"):
                return  # what follows is the script's
        elif re.fullmatch(r"[a-z]+(\|[a-z]+)*", word):
            context = click.Context(command)
            names = word.split("|")
            for name in names:
                assert command.get_command(context, name), f"{command.name} has no {name}"
            if len(names) > 1:
                return
            command = command.get_command(context, word)
        else:
            return


@pytest.mark.parametrize("path", [path for path in PAGES if path.parent.name != "decisions"], ids=name_of)
def test_every_command_that_is_written_is_one(path: Path) -> None:
    for program, line in commands_in(path.read_text(encoding="utf-8")):
        try:
            check(words_of(line), program)
        except AssertionError as wrong:
            raise AssertionError(f"lwfm{program} {line}: {wrong}") from None


def test_enough_is_found_to_be_looked_at() -> None:
    found = list(itertools.chain.from_iterable(commands_in(path.read_text(encoding="utf-8")) for path in PAGES))
    assert len(found) > 200
    with pytest.raises(AssertionError):
        check(words_of("job lst"))
    with pytest.raises(AssertionError):
        check(words_of("submit --croes 3 -- x"))


@pytest.mark.parametrize(
    ("words", "command"), [entry for entry in every_command() if entry[1].epilog], ids=lambda value: str(value)[:40]
)
def test_every_example_of_a_help_is_a_command(words: tuple[str, ...], command: Any) -> None:
    for line in command.epilog.splitlines():
        for program, rest in PROGRAM.findall(line):
            check(words_of(re.sub(r"\s+\(.*\)$", "", rest)), program)


def hints() -> Iterator[tuple[str, str]]:
    """Every ``hint=`` in the code that names a command of lwfm."""
    for path in sorted((ROOT / "agent").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "hint":
                parts = [part.value for part in ast.walk(node.value) if isinstance(part, ast.Constant)]
                for text in (part for part in parts if isinstance(part, str)):
                    for found in re.findall(r"\blwfm ((?:[a-z]+ ?)+(?:--[a-z-]+)?)", text):
                        yield name_of(path), found.strip()


def test_every_command_in_a_hint_is_one() -> None:
    found = list(hints())
    assert len(found) > 30
    roots = {words[0] for words, _ in every_command() if words}
    for path, line in found:
        words = line.split()
        if words[0] in roots:  # else it is said of lwfm that it is, or has, something
            group: Any = cli.get_command(click.Context(cli), words[0])
            second = isinstance(group, click.Group) and words[1:] and words[1] in group.commands
            check(words[: 2 if second else 1] + [word for word in words if word.startswith("--")])
        else:
            assert words[0] in ("release", "that"), f"{path}: {line}"

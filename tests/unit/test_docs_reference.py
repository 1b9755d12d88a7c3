"""The reference tells of all commands, verbs, calls, keys, variables, states and exit codes that there are, and of no others."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import click
import pytest

import lwfm
from lwfm import config, errors, limits
from lwfm.api.routes import routes
from lwfm.cli import errors as cli_errors
from lwfm.library import site
from lwfm.paths import Home
from lwfm.states import JobState
from lwfm.sync import site as remote

from support.commands import every_command, options_of

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [(words, command) for words, command in every_command() if not isinstance(command, click.Group)]
PILLARS = {"auth": site.AuthPillar, "run": site.RunPillar, "repo": site.RepoPillar, "spin": site.SpinPillar}
MODELS = [name for name in lwfm.__all__ if dataclasses.is_dataclass(getattr(lwfm, name))]
SPAN = re.compile(r"`([^`]+)`")


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    """What stands below a heading, up to the next one of its level."""
    head = re.search(rf"^(#+) {re.escape(title)}\n", text, re.MULTILINE)
    assert head, f"there is no section {title!r}"
    return re.split(rf"^#{{1,{len(head[1])}}} ", text[head.end() :], flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """The rows of all tables in a text, without their headings; each as its cells."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    ruled = [index for index, line in enumerate(lines) if line.startswith("|---")]
    body = [line for index, line in enumerate(lines) if index not in ruled and index + 1 not in ruled]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in body]


def spans(text: str) -> list[str]:
    without_blocks = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [span.replace("\\|", "|") for span in SPAN.findall(without_blocks)]


REFERENCE = rows(section(page("cli"), "All commands and options"))
SHARED = {cells[0]: set(spans(cells[1])) for cells in REFERENCE if cells[0].startswith("*")}
TOLD = {spans(cells[0])[0]: cells[1] for cells in REFERENCE if not cells[0].startswith("*")}


class TestCommandLine:
    TEXT = page("cli")

    @staticmethod
    def usage(words: tuple[str, ...], command: Any) -> str:
        pieces = command.collect_usage_pieces(click.Context(command))
        return " ".join([*words, *(piece for piece in pieces if piece != "[OPTIONS]")])

    def test_every_command_is_told_of_with_its_arguments_and_no_other(self) -> None:
        assert set(TOLD) == {self.usage(words, command) for words, command in COMMANDS}
        assert len(TOLD) > 50

    @pytest.mark.parametrize(("words", "command"), COMMANDS, ids=[" ".join(words) for words, _ in COMMANDS])
    def test_every_option_is_told_of_and_no_other(self, words: tuple[str, ...], command: Any) -> None:
        cell = TOLD[self.usage(words, command)]
        told = set(spans(cell)).union(*(SHARED[name] for name in re.findall(r"\*[^*]+\*", cell)))
        context = click.Context(command)
        assert told == {option.get_help_record(context)[0] for option in options_of(command)}

    @pytest.mark.parametrize(("words", "command"), [entry for entry in every_command() if len(entry[0]) == 1])
    def test_every_command_is_in_the_overview(self, words: tuple[str, ...], command: Any) -> None:
        overview = section(self.TEXT, "Commands")
        told = {span for span in spans("\n".join(cells[0] for cells in rows(overview))) if span.split()[0] == words[0]}
        assert told
        for name in command.commands if isinstance(command, click.Group) else ():
            assert any(name in re.split(r"[ |]", span) for span in told), f"{words[0]} {name}"

    def test_options_that_are_explained_are_there(self) -> None:
        there = {name for _, command in every_command() for option in options_of(command) for name in option.opts}
        told = {span.split()[0] for span in spans(self.TEXT) if span.startswith("--")}
        assert len(told) > 40
        assert not told - there - {"--help"}

    def test_every_exit_code_is_told_of_and_no_other(self) -> None:
        told = {int(code) for cells in rows(section(self.TEXT, "Exit codes")) for code in cells[0].split(",")}
        kinds = {kind.exit_code for kind in errors._tree(errors.LwfmError).values()}
        own = {value for name, value in vars(cli_errors).items() if name.startswith("EXIT_")}
        assert told == kinds | own | {0, 128 + 15, 128 + 1}


class TestHelp:
    @pytest.mark.parametrize("words", [words for words, command in every_command() if isinstance(command, click.Group)])
    def test_no_line_of_a_group_is_cut(self, words: tuple[str, ...]) -> None:
        group = dict(every_command())[words]
        shown = {name: command for name, command in group.commands.items() if not command.hidden}
        for name, command in shown.items():  # the root has none: its lines are written out
            summary = command.get_short_help_str(80 - 6 - max(map(len, shown)))
            assert not summary.endswith("..."), f"{name}: {summary}"

    def test_what_the_root_says_of_groups_is_there(self) -> None:
        for words, command in every_command():
            if len(words) == 1 and isinstance(command, click.Group):
                summary = next(s[words[0]][1] for s in _sections().values() if words[0] in s)
                named = re.findall(r"[a-z]+", summary.partition(": ")[2]) if ": " in summary else []
                if words[0] != "self":
                    assert set(named) <= set(command.commands), summary


def _sections() -> Any:
    from lwfm.cli.main import ENTRIES

    return ENTRIES


def signature(name: str, function: Any) -> str:
    """How the reference writes a function: ``name(a, b=1, *, c=None, **more)``."""
    words: list[str] = []
    for parameter in list(inspect.signature(function).parameters.values()):
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in "".join(words):
            words.append("*")
        stars = (
            "**"
            if parameter.kind is parameter.VAR_KEYWORD
            else "*"
            if parameter.kind is parameter.VAR_POSITIONAL
            else ""
        )
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}".replace("'", '"')
        words.append(f"{stars}{parameter.name}{default}")
    return f"{name}({', '.join(words)})"


def public(kind: type) -> dict[str, Any]:
    return {name: member for name, member in inspect.getmembers(kind) if not name.startswith("_")}


class TestLibrary:
    TEXT = page("library")

    def told(self, text: str) -> set[str]:
        return {span for cells in rows(text) for span in spans(cells[0])}

    def test_every_verb_of_the_manager_is_told_of_with_its_parameters_and_no_other(self) -> None:
        there = {
            signature(name, member) if callable(member) else name for name, member in public(lwfm.LwfManager).items()
        }
        assert self.told(section(self.TEXT, "LwfManager")) == there

    def test_every_verb_of_the_pillars_is_told_of_with_its_parameters_and_no_other(self) -> None:
        text = section(self.TEXT, "Site")
        shared = public(site.Pillar)
        tables = re.split(r"^\| `site\.(\w+)` \| \|$", text, flags=re.MULTILINE)
        assert set(tables[1::2]) == set(PILLARS)
        for name, table in zip(tables[1::2], tables[2::2]):
            own = {verb: member for verb, member in public(PILLARS[name]).items() if verb not in shared}
            assert self.told("|\n|---\n" + table) == {signature(verb, member) for verb, member in own.items()}, name
        for verb, member in {**shared, **public(lwfm.Site)}.items():
            assert f"`{signature(verb, member)}`" in text
        assert f"`{signature('LwfManager', lwfm.LwfManager)}`" in self.TEXT
        assert f"`{signature('logging_handler', lwfm.logging_handler)}`" in self.TEXT

    @pytest.mark.parametrize("name", MODELS)
    def test_every_field_of_a_record_is_told_of_and_no_other(self, name: str) -> None:
        text = re.split(r"^#", section(self.TEXT, "Records").partition(f"### {name}\n")[2], flags=re.MULTILINE)[0]
        there = {field.name for field in dataclasses.fields(getattr(lwfm, name))} - {"extra"}
        assert self.told(text) == there

    def test_every_public_name_is_told_of(self) -> None:
        assert len(MODELS) == 10
        assert not [name for name in lwfm.__all__ if name != "__version__" and name not in self.TEXT]

    def test_every_error_is_told_of_with_its_codes_and_no_other(self) -> None:
        told = {spans(cells[0])[0]: (int(cells[2]), int(cells[3])) for cells in rows(section(self.TEXT, "Errors"))}
        known = errors._tree(errors.LwfmError)
        there = {name: kind for name, kind in known.items() if kind.__module__ == errors.__name__}
        assert told == {name: (kind.exit_code, kind.http_status) for name, kind in there.items()}
        assert errors.__doc__
        assert not [name for name in there if name not in errors.__doc__]


class TestApi:
    CALL = re.compile(r"`(GET|POST|DELETE) (/v1/[^`?]*)`")

    def test_every_route_is_told_of_and_no_other(self) -> None:
        told = set()
        for cells in rows(page("api")):
            for method, path in self.CALL.findall(cells[0]):
                told.add((method, re.sub(r"(?<=/)[A-Z]+(?=/|$)", "*", path)))
                told.update((other, path) for other in re.findall(r"or `(GET|POST|DELETE)`", cells[0]))
        assert told == {(route.method, _path_of(route)) for route in routes()}
        assert len(told) > 60


def _path_of(route: Any) -> str:
    return re.sub(r"\\(.)", r"\1", route.pattern.pattern.rstrip("$").replace("([^/]+)", "*"))


class TestConfiguration:
    TEXT = page("configuration")

    def test_every_key_of_any_site_is_in_its_table_and_no_other(self) -> None:
        text = section(self.TEXT, "Keys of any site")
        assert {span for cells in rows(text) for span in spans(cells[0])} == {
            *config.SITE_KEYS,
            *config.VENV_KEYS,
            *limits.KEYS,
        }
        assert f"({', '.join(f'`{pillar}`' for pillar in config.PILLARS)})" in text

    def test_every_key_of_local_is_in_its_table_and_no_other(self) -> None:
        told = {span for cells in rows(section(self.TEXT, "Keys of `[local]`")) for span in spans(cells[0])}
        assert told == set(config.LOCAL_KEYS)

    def test_every_key_of_another_host_is_told_of_and_no_other(self) -> None:
        told = {span for cells in rows(section(page("remote"), "A first job")) for span in spans(cells[0])}
        assert told == {*remote._OPTIONS, *limits.KEYS}

    def test_every_variable_is_told_of_and_no_other(self) -> None:
        places = [*(ROOT / "agent").rglob("*.py"), *(ROOT / "build").glob("*/*.py"), ROOT / "lwfm.sh"]
        words = re.compile(r"(?<![A-Z_])LWFM_[A-Z_]*[A-Z](?![A-Z_])")
        there = {name for place in places for name in words.findall(place.read_text(encoding="utf-8"))}
        cells = [cells for cells in rows(section(self.TEXT, "Environment variables")) if cells]
        told = {name for line in cells for name in words.findall(line[0])}
        assert told == there
        for name in ("api", "batch", "cli", "library", "remote", "states", "troubleshooting"):
            assert set(words.findall(page(name))) <= told, name

    def test_everything_in_the_home_is_told_of(self) -> None:
        home = Home(Path("/home/ada/.lwfm"))
        places = [name for name, member in public(Home).items() if isinstance(member, property)]
        names = {getattr(home, name).name for name in places} - {".lwfm"}
        told = " ".join(spans(" ".join(cells[0] for cells in rows(section(self.TEXT, "The home")))))
        assert not [name for name in names if name not in told]


class TestStates:
    def test_every_state_is_told_of_and_no_other(self) -> None:
        told = {cells[0]: cells[2] == "yes" for cells in rows(section(page("states"), "Job states"))}
        assert told == {state.value: state.terminal for state in JobState}

"""``sync``: the thread, and the data that are asked for, between this instance and others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, TypeVar

import click

from ..client import Client
from ..client.calls import path_of
from ..errors import LwfmError, NotFound
from ..paths import Home
from . import render
from .agent_control import ask_agent, stop_agent
from .asker import terminal_asker
from .errors import EXIT_NOT_ALL
from .groups import Group, example
from .options import json_option
from .session import Session
from .ssh_options import ssh_settings
from .sync_files import export, import_, vector
from .sync_view import comparison, progress, say_synced, show_comparison
from .text import harmless
from .typed import Duration

if TYPE_CHECKING:
    from ..records import JSON
    from ..sync.address import Address
    from ..sync.session import Synced

F = TypeVar("F", bound=Callable[..., Any])
AT_REST_S = 5.0


@click.group(cls=Group, short_help="Bring stores together: pull, push, both ...")
def sync() -> None:
    """Bring the thread of this instance and of another one together, over ssh.

    Records always, data on request. HOST is what ssh knows it by, or the name of a peer; it needs nothing but lwfm.pyz there
    ('lwfm self copy HOST' puts it there). Without HOST, all peers. It may be cut off at any time, and goes on where it stopped.
    """


def _sync_options(function: F) -> F:
    decorated: Any = function
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


_OPTIONS = (
    click.argument("host", metavar="[HOST]", required=False),
    click.option(
        "--data",
        multiple=True,
        metavar="all|none|KEY=VALUE",
        help="Also files: all, or those whose metadata fulfil all conditions, as of 'find'. [default: none]",
    ),
    click.option("--outputs", is_flag=True, help="Also what jobs printed."),
    click.option("--max-size", metavar="SIZE", help="No file larger than this, as 500M."),
    click.option("--min-size", metavar="SIZE", help="No file smaller than this."),
    click.option(
        "--every", type=Duration(), metavar="TIME", help="And again so often, as 5m, by the agent; it never asks."
    ),
    click.option("--once", is_flag=True, help="This time, and no more by itself."),
    click.option("--batch", is_flag=True, help="Never ask for anything: fail instead."),
    ssh_settings,
    json_option,
    click.pass_obj,
)


@sync.command(epilog=example("lwfm sync pull cluster", "lwfm sync pull cluster --data kind=thermo --max-size 1G"))
@_sync_options
def pull(session: Session, **options: Any) -> int:
    """Bring what is new there to here."""
    return _run(session, "pull", **options)


@sync.command(epilog=example("lwfm sync push desktop", "lwfm sync push me@desktop:2222 --data all --json"))
@_sync_options
def push(session: Session, **options: Any) -> int:
    """Bring what is new here to there."""
    return _run(session, "push", **options)


@sync.command(epilog=example("lwfm sync both cluster", "lwfm sync both cluster --every 5m", "lwfm sync both"))
@_sync_options
def both(session: Session, **options: Any) -> int:
    """Bring what is new there to here, then what is new here to there."""
    return _run(session, "both", **options)


@sync.command(
    short_help="What each side lacks; changes nothing.",
    epilog=example("lwfm sync status cluster", "lwfm sync status --json"),
)
@click.argument("host", metavar="[HOST]", required=False)
@click.option("--batch", is_flag=True, help="Never ask for anything: fail instead.")
@ssh_settings
@json_option
@click.pass_obj
def status(session: Session, host: str | None, batch: bool, ssh: JSON, as_json: bool) -> int:
    """What each side lacks of the other's records, and how far apart the clocks are. Changes nothing."""
    from ..sync.session import compare, connected

    def compared(peer: JSON) -> tuple[JSON, int]:
        with connected(_address(peer), None if batch else terminal_asker()) as line:
            outcome, lack = compare(line, session.client)
        if not as_json:
            show_comparison(peer["name"], outcome, lack)
            if not host:
                render.say()
        return comparison(outcome, lack), 0

    return _with_each(session, host, ssh, compared, as_json=as_json)


@sync.command(hidden=True, epilog=example("ssh HOST lwfm sync serve --stdio   (as 'sync both HOST' does)"))
@click.option("--stdio", is_flag=True, required=True, help="On standard input and output.")
@click.option("--at-rest", is_flag=True, help="Its work is over: whatever still runs is stopped, and nothing started.")
@click.pass_obj
def serve(session: Session, stdio: bool, at_rest: bool) -> None:  # noqa: ARG001 - there is no other way
    """Answer another instance that syncs with this one: what is started at the far end of its line."""
    from ..sync.session import serve as answer

    client = session.client
    if at_rest:
        if not _is_at_rest(session):
            stop_agent(session, kill=True)  # whatever is left of it
        client = Client(replace(session.endpoint, at_rest=True), idle_exit_s=AT_REST_S)
    answer(client, session.instance)


def _is_at_rest(session: Session) -> bool:
    """Whether an agent runs that only answers, as one that another collecting has started."""
    try:
        return bool((ask_agent(session) or {}).get("at_rest"))
    except LwfmError:
        return False


@sync.command(
    short_help="The thread of a batch job that had its own instance.",
    epilog=example("lwfm sync collect ~/.lwfm/batch/slurm/jobs/3f/01971c2e-….1.home"),
)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False))
@json_option
@click.pass_obj
def collect(session: Session, directory: Path, as_json: bool) -> int:
    """Bring the thread of an instance that a batch job had of its own, once the job has ended; and what its jobs printed.

    The agent does so by itself; this is for when it could not. DIR is the home of that instance, as this host sees it. Its work is
    over: of its jobs, those that still run are stopped if they can be reached, and are UNKNOWN else; those that wait are CANCELLED.
    """
    from ..data.outputs import BROUGHT_BYTES
    from ..sync.session import Watcher, connected_here
    from ..sync.session import sync as exchanged
    from ..sync.wanted import DataRequest

    if not Home(directory).database.exists():
        raise NotFound(f"there is no instance in {harmless(str(directory))}")
    request = DataRequest(outputs=True, max_bytes=BROUGHT_BYTES)
    with connected_here(str(directory.absolute())) as line, progress(directory.name) as shown:
        watcher = Watcher(shown.records, shown.contents, shown.line)
        synced = exchanged(
            line, session.client, session.instance, pull=True, push=False, request=request, watcher=watcher
        )
    if as_json:
        render.print_json(synced.to_json())
    else:
        say_synced(directory.name, synced)
    return 0 if synced.complete else EXIT_NOT_ALL


def _run(
    session: Session,
    way: str,
    *,
    host: str | None,
    every: float | None,
    once: bool,
    ssh: JSON,
    as_json: bool,
    **options: Any,
) -> int:
    if every is not None and once:
        raise click.UsageError("--every and --once contradict each other")

    def synced(peer: JSON) -> tuple[JSON, int]:
        done = _sync_with(session, peer, way, every=0.0 if once else every, **options)
        if not as_json:
            say_synced(peer["name"], done)
        return done.to_json(), 0 if done.complete else EXIT_NOT_ALL

    return _with_each(session, host, ssh, synced, as_json=as_json)


def _with_each(
    session: Session, host: str | None, ssh: JSON, work: Callable[[JSON], tuple[JSON, int]], *, as_json: bool
) -> int:
    """Do something with a host, or with all peers in turn; the exit code.

    Args:
        work: with one peer: what to print as JSON of it, and the exit code. One that fails does not keep it from the others.
    """
    peers = [_peer(session, host, ssh)] if host else session.client.get("/v1/peers")["peers"]
    if not peers:
        raise NotFound("there are no peers yet", hint="name a host: lwfm sync both HOST; it is remembered")
    if not host and ssh:
        raise click.UsageError("options of ssh need a HOST")
    answers, failed = [], 0
    for peer in peers:
        try:
            told, code = work(peer)
        except LwfmError as error:
            if len(peers) == 1:
                raise
            failed = failed or error.exit_code
            answers.append({"peer": peer["name"], "error": error.to_json()})
            render.note(f"lwfm: {peer['name']}: {error.message}")
            continue
        answers.append({"peer": peer["name"], **told})
        failed = failed or code
    if as_json:
        render.print_json(answers[0] if host else answers)
    return failed


def _sync_with(
    session: Session, peer: JSON, way: str, *, every: float | None, data: tuple[str, ...], outputs: bool,
    max_size: str | None, min_size: str | None, batch: bool,
) -> Synced:  # fmt: skip
    """One sync with one peer, and what is remembered of it."""
    from ..sync.session import Watcher, connected
    from ..sync.session import sync as exchanged
    from ..sync.wanted import DataRequest

    given = DataRequest.parse(data, outputs=outputs, max_size=max_size, min_size=min_size)
    request = DataRequest.from_json(peer["data"]) if not data and not outputs and peer.get("data") else given
    ask = None if batch else terminal_asker()
    with _noted(session, peer), connected(_address(peer), ask) as line, progress(peer["name"]) as shown:
        watcher = Watcher(shown.records, shown.contents, shown.line)
        ways = {"pull": way != "push", "push": way != "pull"}
        synced = exchanged(line, session.client, session.instance, **ways, request=request, watcher=watcher)
    kept: JSON = {"address": peer["address"]} if peer.get("told") else {}
    if every is not None:
        kept["every_s"] = every or None
        kept["way"] = way if every else None
        kept["data"] = None if request.empty or not every else request.to_json()
    if kept:  # and nothing of what was only read: it may be another by now
        peer = session.client.post("/v1/peers", {"name": peer["name"], **kept}, repeatable=True)
    with suppress(NotFound):  # it was removed while this went on
        _note(session, peer, synced.to_note())
    return synced


def _note(session: Session, peer: JSON, outcome: JSON) -> None:
    """Note what came of it: of this peer, not of one that was added under its name meanwhile."""
    body = {"added_at": peer["added_at"], **outcome}
    session.client.post(f"{path_of('peers', peer['name'])}/outcome", body, repeatable=True)


@contextmanager
def _noted(session: Session, peer: JSON) -> Iterator[None]:
    """A peer that is known has its failures noted."""
    try:
        yield
    except LwfmError as error:
        if peer.get("added_at"):
            with suppress(LwfmError):  # what went wrong with the sync is what the user is to know
                _note(session, peer, {"error": error.message[:500]})
        raise


def _peer(session: Session, host: str, ssh: JSON) -> JSON:
    """The peer of that name, else one that would have it; options that are given now go before what is remembered.

    ``told``: whether its address is to be remembered, since the user has said something of it.
    """
    from ..sync.address import Address, parse

    for peer in session.client.get("/v1/peers")["peers"]:
        if peer["name"] == host:
            return {**peer, "address": Address.from_json({**peer["address"], **ssh}).to_json(), "told": bool(ssh)}
    return {"name": host, "address": parse(host, **ssh).to_json(), "told": True}


def _address(peer: JSON) -> Address:
    from ..sync.address import Address

    return Address.from_json(peer["address"])


for _command in (export, import_, vector):
    sync.add_command(_command)

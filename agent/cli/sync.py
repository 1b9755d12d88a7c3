"""``sync``: the thread, and the data that are asked for, between this instance and others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, TypeVar

import click

from ..client import Client
from ..client.connection import path_of
from ..errors import ConfigError, Conflict, LwfmError, NotFound
from ..paths import Home
from . import render
from .agent_control import ask_agent, stop_agent
from .asker import terminal_asker
from .groups import Group, example
from .options import Duration, json_option
from .session import Session
from .ssh_options import ssh_settings
from .sync_view import files_moved, progress, say_missing, say_synced, show_comparison
from .text import harmless, plural, size

if TYPE_CHECKING:
    from ..records import JSON
    from ..sync.address import Address
    from ..sync.session import Synced

F = TypeVar("F", bound=Callable[..., Any])
EXIT_NOT_ALL = 6
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


@sync.command(epilog=example("lwfm sync status cluster", "lwfm sync status cluster --json"))
@click.argument("host", metavar="HOST")
@click.option("--batch", is_flag=True, help="Never ask for anything: fail instead.")
@ssh_settings
@json_option
@click.pass_obj
def status(session: Session, host: str, batch: bool, ssh: JSON, as_json: bool) -> None:
    """What each side lacks of the other's records, and how far apart the clocks are. Changes nothing."""
    from ..sync.session import compare, connected

    peer = _peer(session, host, ssh)
    with connected(_address(peer), None if batch else terminal_asker()) as line:
        outcome, lack = compare(line, session.client)
    show_comparison(outcome, lack, as_json=as_json)


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


@sync.command(epilog=example("lwfm sync collect ~/.lwfm/batch/slurm/jobs/3f/01971c2e-….1.home"))
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


@sync.command(
    epilog=example(
        "lwfm sync export thread.lwfm --since desktop", "lwfm sync export study.lwfm --workflow melt --data all"
    )
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--since", metavar="PEER|VECTOR", help="Only what a peer, or who wrote VECTOR with 'sync vector', does not know."
)
@click.option("--workflow", metavar="ID|NAME", help="Only what belongs to one workflow.")
@click.option("--data", multiple=True, metavar="all|none|KEY=VALUE", help="Also files, as with 'sync pull'.")
@click.option("--max-size", metavar="SIZE", help="No file larger than this.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@json_option
@click.pass_obj
def export(
    session: Session, file: Path, since: str | None, workflow: str | None, data: tuple[str, ...], max_size: str | None,
    force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Write the thread to a file, to be carried to where no ssh reaches; 'sync import' takes it in there."""
    from ..sync.bundle import export as write
    from ..sync.bundle import parse_since
    from ..sync.wanted import DataRequest

    if since and workflow:
        raise click.UsageError("--since and --workflow do not go together: a workflow is always written whole")
    if file.exists() and not force:
        raise Conflict(f"{str(file)!r} is there already", hint="--force writes over it")
    client = session.client
    known = parse_since(since, client.get("/v1/peers")["peers"]) if since else None
    chosen = str(session.workflow(workflow)["workflow_id"]) if workflow else None
    request = DataRequest.parse(data, max_size=max_size)
    with progress(file.name) as shown, _written(file):
        written = write(client, file, since=known, workflow=chosen, request=request, count=shown.count)
    if as_json:
        render.print_json({"file": str(file), "size_bytes": file.stat().st_size, **written.to_json()})
    else:
        files = f", {plural(written.files, 'file')}" if written.files else ""
        render.say(f"{harmless(str(file))}: {plural(written.records, 'record')}{files}; {size(file.stat().st_size)}")
        _say_notices(written.notices)


@sync.command("import", epilog=example("lwfm sync import thread.lwfm", "lwfm sync import study.lwfm --data none"))
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--data", multiple=True, metavar="all|none|KEY=VALUE", help="Which of its files to take. [default: all]")
@click.option("--max-size", metavar="SIZE", help="No file larger than this.")
@json_option
@click.pass_obj
def import_(session: Session, file: Path, data: tuple[str, ...], max_size: str | None, as_json: bool) -> int:
    """Take in what 'sync export' has written elsewhere. Everything in it is verified; what is here already is passed over."""
    from ..sync.bundle import take_in
    from ..sync.wanted import DataRequest

    request = DataRequest.parse(data or ("all",), max_size=max_size)
    with progress(file.name) as shown, _written(file):
        taken = take_in(session.client, session.instance, file, request=request, count=shown.count, tell=shown.contents)
    if as_json:
        render.print_json({"file": str(file), **taken.to_json()})
    else:
        files = f", {files_moved(taken.moved)}" if taken.moved else ""
        source = f" of {taken.source.user}@{taken.source.host}" if taken.source else ""
        render.say(f"{harmless(str(file))}{harmless(source)}: {plural(taken.records, 'new record')}{files}")
        if taken.moved:
            say_missing(taken.moved)
        _say_notices(taken.notices)
    return EXIT_NOT_ALL if taken.moved and not taken.moved.complete else 0


@sync.command(epilog=example("lwfm sync vector > here.json   (there: lwfm sync export for-me.lwfm --since here.json)"))
@click.pass_obj
def vector(session: Session) -> None:
    """What this instance knows, as 'sync export --since' takes it elsewhere: of each origin the number of its last record."""
    render.print_json(session.client.get("/v1/sync")["vector"])


@contextmanager
def _written(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"cannot use {harmless(str(file))}: {error.strerror or error}") from error


def _say_notices(notices: Sequence[str]) -> None:
    for notice in notices:
        render.note(f"lwfm: {notice}")


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
    peers = [_peer(session, host, ssh)] if host else session.client.get("/v1/peers")["peers"]
    if not peers:
        raise NotFound("there are no peers yet", hint="name a host: lwfm sync both HOST; it is remembered")
    if not host and ssh:
        raise click.UsageError("options of ssh need a HOST")
    answers, failed = [], 0
    for peer in peers:
        try:
            synced = _sync_with(session, peer, way, every=0.0 if once else every, **options)
        except LwfmError as error:
            if len(peers) == 1:
                raise
            failed = failed or error.exit_code
            answers.append({"peer": peer["name"], "error": error.to_json()})
            render.note(f"lwfm: {peer['name']}: {error.message}")
            continue
        answers.append({"peer": peer["name"], **synced.to_json()})
        if not synced.complete:
            failed = failed or EXIT_NOT_ALL
        if not as_json:
            say_synced(peer["name"], synced)
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
    kept: JSON = {"name": peer["name"], "address": peer["address"]}
    if every is not None:
        kept["every_s"] = every or None
        kept["way"] = way if every else None
        kept["data"] = None if request.empty or not every else request.to_json()
    session.client.post("/v1/peers", kept, repeatable=True)
    session.client.post(f"{path_of('peers', peer['name'])}/outcome", synced.to_note(), repeatable=True)
    return synced


@contextmanager
def _noted(session: Session, peer: JSON) -> Iterator[None]:
    """A peer that is known has its failures noted."""
    try:
        yield
    except LwfmError as error:
        if peer.get("added_at"):
            outcome = f"{path_of('peers', peer['name'])}/outcome"
            with suppress(LwfmError):  # what went wrong with the sync is what the user is to know
                session.client.post(outcome, {"error": error.message[:500]}, repeatable=True)
        raise


def _peer(session: Session, host: str, ssh: JSON) -> JSON:
    """The peer of that name, else one that would have it; options that are given now go before what is remembered."""
    from ..sync.address import Address, parse

    for peer in session.client.get("/v1/peers")["peers"]:
        if peer["name"] == host:
            peer["address"] = Address.from_json({**peer["address"], **ssh}).to_json()
            return dict(peer)
    return {"name": host, "address": parse(host, **ssh).to_json()}


def _address(peer: JSON) -> Address:
    from ..sync.address import Address

    return Address.from_json(peer["address"])


@click.group(cls=Group, short_help="The instances to sync with.")
def peer() -> None:
    """The instances that this one syncs with, by name. A host is remembered by its first sync."""


@peer.command(epilog=example("lwfm peer add cluster me@login.example.org", "lwfm peer add cluster login --every 10m"))
@click.argument("name")
@click.argument("host", metavar="[HOST]", required=False)
@click.option("--every", type=Duration(), metavar="TIME", help="Sync with it so often, by the agent.")
@click.option("--data", multiple=True, metavar="all|KEY=VALUE", help="The files to bring along then.")
@click.option("--outputs", is_flag=True, help="And what jobs printed.")
@ssh_settings
@json_option
@click.pass_obj
def add(
    session: Session, name: str, host: str | None, every: float | None, data: tuple[str, ...], outputs: bool, ssh: JSON,
    as_json: bool,
) -> None:  # fmt: skip
    """Remember a peer, without syncing. HOST is what ssh knows it by, where that is not NAME."""
    from ..sync.address import parse
    from ..sync.wanted import DataRequest

    if any(known["name"] == name for known in session.client.get("/v1/peers")["peers"]):
        raise Conflict(f"there is a peer {name!r} already", hint=f"lwfm peer remove {name}")
    body: JSON = {"name": name, "address": parse(host or name, **ssh).to_json(), "every_s": every}
    request = DataRequest.parse(data, outputs=outputs)
    if not request.empty:
        body["data"] = request.to_json()
    answer = session.client.post("/v1/peers", body)
    if as_json:
        render.print_json(answer)


@peer.command("list", epilog=example("lwfm peer list", "lwfm peer list --json"))
@json_option
@click.pass_obj
def list_peers(session: Session, as_json: bool) -> None:
    """List the peers, and when each was last synced with."""
    from .sync_view import peer_rows

    found = session.client.get("/v1/peers")["peers"]
    if as_json:
        render.print_json(found)
    else:
        titles = ("PEER", "HOST", "INSTANCE", "LAST SYNC", "EVERY", "CLOCK", "PROBLEM")
        render.table(titles, peer_rows(found), empty="lwfm: no peers yet: lwfm sync both HOST")


@peer.command(epilog=example("lwfm peer remove cluster"))
@click.argument("name")
@click.pass_obj
def remove(session: Session, name: str) -> None:
    """Forget a peer. What came from it stays."""
    session.client.delete(path_of("peers", name))
    render.note(f"lwfm: peer {harmless(name)} is forgotten; its records stay")

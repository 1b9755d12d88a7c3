"""What is fuzzed: everything that reads what others have written. Each target takes any bytes and must answer or refuse.

Refusing is raising an :class:`~lwfm.errors.LwfmError`; any other exception is a finding, and so is an answer that is not what
its type says, or text for a terminal or a page that could do something there. The same targets serve Hypothesis
(``tests/properties/test_hostile_input.py``) and the coverage-guided fuzzer (``tests/fuzz/run.py``).
"""

from __future__ import annotations

import dataclasses
import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Optional, Union, get_args, get_origin, get_type_hints

from lwfm import config, hostlist, redaction
from lwfm.cli import report_html, text
from lwfm.errors import LwfmError
from lwfm.launch.schedulers import flux, gridengine, hostfile, nodefiles
from lwfm.launch.schedulers import slurm as slurm_allocation
from lwfm.models import Handler, JobContext, JobDefn, JobStatus, Metasheet, Workflow
from lwfm.sites.batch.pbs import Pbs
from lwfm.sites.batch.record import read_claim, read_record
from lwfm.sites.batch.scheduler import Scheduler
from lwfm.sites.batch.sge import GridEngine
from lwfm.sites.batch.slurm import Slurm
from lwfm.store import batch
from lwfm.sync import address, frames
from lwfm.wire import Decoder

CORPUS = Path(__file__).resolve().parent / "corpus"
NOW = 1_700_000_000.0
JOINERS = "\u200c\u200d\u00ad"
"""Of the invisible characters (category Cf) those that are only about how letters are set."""

HARMLESS_ID = re.compile(r"[0-9][^\s\0'\"$;]*")
"""A word that is no option, and no more than one word."""

Target = Callable[[bytes], None]


def refusing(read: Callable[..., Any], *given: Any) -> Any:
    """What ``read`` gives; None where it refuses."""
    try:
        return read(*given)
    except LwfmError:
        return None


# ---------------------------------------------------------------------------------------------- between instances


def wire(data: bytes) -> None:
    """Frames of a worker, in pieces of all sizes."""
    whole = refusing(lambda: list(Decoder().feed(data)))
    decoder, step = Decoder(), 1 + len(data) // 7
    pieces = refusing(lambda: [m for at in range(0, len(data), step) for m in decoder.feed(data[at : at + step])])
    assert whole == pieces or whole is None or pieces is None
    assert all(isinstance(message["t"], str) for message in whole or ())


class _Bytes:
    """A stream that holds some bytes."""

    def __init__(self, data: bytes):
        self._data = data

    def read(self, most: int) -> bytes:
        piece, self._data = self._data[:most], self._data[most:]
        return piece

    def write(self, data: bytes) -> None:
        """Nobody listens."""

    def close(self) -> None:
        """Nothing to close."""

    def complaint(self) -> str:
        return ""


def sync(data: bytes) -> None:
    """Frames of another instance, and the batches of records in them."""
    line = frames.Line(_Bytes(data))
    for _ in range(len(data) + 1):
        frame = refusing(line.receive)
        if frame is None:
            return
        assert isinstance(frame.head["t"], str)
        refusing(batch.decode, frame.body)
        refusing(batch.vector_from_json, frame.head.get("vector"))


def greeting(data: bytes) -> None:
    """What a login shell prints before the far side speaks."""
    refusing(frames.Line(_Bytes(data)).await_greeting)


def records(data: bytes) -> None:
    """A batch of records, and each kind of record."""
    refusing(batch.decode, data)
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        return
    refusing(batch.vector_from_json, told)
    if isinstance(told, dict):
        for kind in (JobDefn, JobContext, JobStatus, Metasheet, Workflow, Handler):
            made = refusing(kind.from_json, told)
            if made is not None:
                json.dumps(made.to_json())


def addresses(data: bytes) -> None:
    """What a person types for another host; a word of it must never be an option of ssh."""
    found = refusing(address.parse, data.decode("utf-8", "surrogateescape"))
    if found is not None:
        assert not str(found.host).startswith("-")


# ---------------------------------------------------------------------------------------------- files of the user


def sites(data: bytes) -> None:
    """``sites.toml``."""

    class File(type(Path())):  # type: ignore[misc]
        """A file with these bytes."""

        def read_text(self, encoding: Optional[str] = None, errors: Optional[str] = None) -> str:
            return data.decode(encoding or "utf-8", errors or "strict")

    for name, site in (refusing(config.read_sites, File("sites.toml")) or {}).items():
        assert site.name == name
        refusing(config.labels_option, site.options)
        refusing(config.seconds_option, site.options, "end_notice_s", 1.0)


# ---------------------------------------------------------------------------------------------- schedulers


def _scheduler(scheduler: Scheduler) -> Target:
    def target(data: bytes) -> None:
        told = data.decode("utf-8", "replace")  # as their commands' answers are
        parts = told.split("\0")
        count = len(scheduler.ask_resources())
        found = refusing(scheduler.read_resources, [*parts, *[""] * count][:count])
        for made in [*found[0], *found[1]] if found is not None else []:
            check(made)
        for jobs in (refusing(scheduler.read_jobs, told, NOW), refusing(scheduler.read_ended, told)):
            for job in jobs or ():
                check(job)
                assert HARMLESS_ID.fullmatch(job.job_id), job
        native = scheduler.read_submitted(told)
        assert native is None or HARMLESS_ID.fullmatch(native)
        assert scheduler.read_limits(told) is None or int(scheduler.read_limits(told) or 0) >= 0
        for ask in (scheduler.is_refusal, scheduler.is_doubtful, scheduler.is_unknown_job):
            assert ask(told) in (True, False)

    return target


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def check(made: Any) -> None:
    """Each field of a record is what its type says, and no number is none."""
    for name, hint in _hints(made.__class__).items():
        value = getattr(made, name)
        kinds = get_args(hint) if get_origin(hint) is Union else (hint,)
        plain = tuple(get_origin(kind) or kind for kind in kinds)
        allowed = (*plain, int) if float in plain else plain
        assert isinstance(value, allowed), (type(made).__name__, name, value)
        assert isinstance(value, bool) is (bool in plain) or not isinstance(value, bool), (name, value)
        assert value == value, (name, value)
        if isinstance(value, tuple):
            for item in value:
                assert isinstance(item, str) or dataclasses.is_dataclass(item), (name, value)
                if not isinstance(item, str):
                    check(item)


def allocation(data: bytes) -> None:
    """The environment and the answers from which an allocation is known: each piece is used for each."""
    pieces = [*data.decode("utf-8", "replace").split("\0"), *[""] * 12]
    first = [*pieces[:4], *pieces[:8]]
    read = pieces[-13] if len(pieces) > 12 else ""
    names: dict[Callable[..., Any], str] = {
        slurm_allocation.find: "SLURM_JOB_ID SLURM_JOB_NODELIST SLURM_JOB_CPUS_PER_NODE SLURM_MEM_PER_NODE SLURM_JOB_GPUS"
        " SLURM_JOB_NUM_NODES SLURM_MEM_PER_CPU SLURM_GPUS_ON_NODE SLURMD_NODENAME",
        nodefiles.find_pbs: "PBS_JOBID PBS_NODEFILE PBS_NODENUM NCPUS",
        nodefiles.find_lsf: "LSB_JOBID LSB_MCPU_HOSTS LSB_DJOB_HOSTFILE LSB_HOSTS LSB_JOBINDEX",
        nodefiles.find_cobalt: "COBALT_JOBID COBALT_NODEFILE COBALT_PARTNAME",
        gridengine.find: "JOB_ID PE_HOSTFILE SGE_TASK_ID QUEUE NSLOTS HOSTNAME",
        flux.find: "FLUX_URI FLUX_JOB_ID",
    }
    for find, variables in names.items():
        environment = dict(zip(variables.split(), first))
        found = refusing(find, environment, lambda _: read, lambda *_: pieces[0], NOW)
        if found is not None:
            assert found.nodes
            check(found)
    refusing(hostfile.from_hostfile, pieces[0])


def hosts(data: bytes) -> None:
    """Lists of hosts: what is folded expands to the same."""
    found = refusing(hostlist.expand, data.decode("utf-8", "replace"))
    if found:
        assert len(found) <= 10**7
        assert hostlist.expand(hostlist.fold(found[:200])) == found[:200]


def exit_record(data: bytes) -> None:
    """What the script of a batch job has left behind."""
    told = data.decode("utf-8", "replace")
    for made in (read_record(told), read_record(told + "\nend\n"), read_claim(told)):
        if made is not None:
            check(made)


# ---------------------------------------------------------------------------------------------- what jobs print


def strange(shown: str, allowed: str) -> Iterator[str]:
    """The characters of ``shown`` that are obeyed by a terminal, or that hide or turn others."""
    for mark in shown:
        if mark not in allowed and unicodedata.category(mark) in ("Cc", "Cs", "Cf", "Zl", "Zp"):
            signs = unicodedata.category(mark) == "Cf" and unicodedata.bidirectional(mark) in ("AN", "AL", "L")
            if not signs or mark in "\u061c\u200e\u200f":
                yield mark


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements += 1


def output(data: bytes) -> None:
    """Output of jobs, on a terminal and in a page."""
    told = data.decode("utf-8", "surrogateescape")
    assert not list(strange(text.harmless(told), JOINERS))
    assert not list(strange(text.harmless_lines(told), JOINERS + "\n\t"))
    live = text.harmless_live(told)
    assert not list(strange(re.sub(r"\x1b\[[0-9;]*m", "", live), JOINERS + "\n\t\r"))
    page = _Page()
    page.feed(
        f"<p title='{report_html.clean(told)}' class=\"{report_html.clean(told, 20)}\">{report_html.clean(told)}</p>"
    )
    page.close()
    assert page.elements == 1
    redaction.redact_text(told)


TARGETS: dict[str, Target] = {
    "wire": wire, "sync": sync, "greeting": greeting, "records": records, "addresses": addresses, "sites": sites,
    "slurm": _scheduler(Slurm()), "sge": _scheduler(GridEngine()), "pbs": _scheduler(Pbs()), "allocation": allocation,
    "hosts": hosts, "exit_record": exit_record, "output": output,
}  # fmt: skip
"""By name; ``corpus/NAME/`` has the inputs to begin with."""


def seeds(name: str) -> dict[str, bytes]:
    """The corpus of a target, by the names of its files."""
    return {path.name: path.read_bytes() for path in sorted((CORPUS / name).glob("*"))}

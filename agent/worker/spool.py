"""What the worker remembers: which jobs it has, how far they have come, what the agent has not acknowledged.

Owns the journal's lines and their order, the numbers of events, and the worker's identity. Decides nothing about jobs.

The lines of one job, in this order: ``taken`` (often many in one), ``start`` (a process is about to be started: written
*before* it is, so that no death of the worker makes a job run twice), ``started`` with the pid, ``stop`` (we began to stop
it, and why), ``exit`` with the status (written *before* the kernel is told to forget the process, so that no death loses
the status), ``ended``. ``back`` undoes a ``start`` that started nothing. ``started`` and ``ended`` are the events as they are sent.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Optional

from ..errors import InvalidRecord
from ..host.processes import boot_id
from ..jsontext import compact_ascii
from .jobs import ENDED, QUEUED, RUNNING, STARTING, Exit, Job, Key
from .journal import Journal, Line
from .ledger import Grant
from .log import Log

JOURNAL = "journal"
FORMAT = 1
COMPACT_BYTES = 8 * 1024 * 1024
"""A journal larger than this, and twice as large as after it was last rewritten, is rewritten."""
IDLE_COMPACT_BYTES = 64 * 1024
"""The same when nothing runs and everything is acknowledged."""
EVENT_TEXT_BYTES = 2 * 1024 * 1024
"""How much text of events is kept in memory; the rest is read back from the journal."""


class Event:
    """A numbered event: its text, or where in the journal it stands."""

    __slots__ = ("ends", "key", "length", "offset", "text")

    def __init__(self, key: Key, ends: bool, text: Optional[str], place: tuple[int, int]) -> None:
        self.key, self.ends, self.text = key, ends, text
        self.offset, self.length = place


class Spool:
    """The memory of one spool directory, with the jobs an earlier loop left in it.

    Args:
        directory: exists, and belongs to us.
        keeper: what identifies the keeper of this loop; empty without one.

    Attributes:
        started_pids: of all processes whose start the journal told of when it was read.
        rewritten: how often the journal has been rewritten; then contexts that nobody used are gone.
        durable: the number of the last event that the journal has; ``acked``: of the last that the agent has.
    """

    def __init__(self, directory: str, keeper: str, log: Log) -> None:
        self.keeper = keeper
        self.jobs: dict[Key, Job] = {}
        self.contexts: dict[int, Mapping[str, str]] = {}
        self.acked = self.durable = self._noted_ack = 0
        self.rebooted = False
        self.rewritten = 0
        self.started_pids: set[int] = set()
        self.worker = ""
        self._log = log
        self._taken: list[Line] = []
        self._events: dict[int, Event] = {}
        self._text_bytes = 0
        self._next = 1
        self._boot = ""
        self._known_contexts: dict[tuple[tuple[str, str], ...], int] = {}
        self._journal = Journal(os.path.join(directory, JOURNAL), log)
        self._replay()
        self.rebooted = self._boot not in ("", boot_id())
        if self.rebooted or not self.worker:
            # What stood in the journal last may be gone with the node's memory, and with it numbers the agent has seen:
            # under a new name nothing can be taken for acknowledged that is not.
            self._renumber()
        for job in self.jobs.values():
            job.worker = self.worker
        self.compact()

    # --------------------------------------------------------------------------------------------- writing

    @property
    def blocked(self) -> bool:
        """Whether the journal cannot be written now."""
        return self._journal.blocked

    @property
    def refusal(self) -> str:
        """What the system said when it could not be written last."""
        return self._journal.refusal

    def flush(self) -> bool:
        """Write what has been noted; False when the disk refuses, and then nothing of it may be acted upon."""
        if self._taken:
            self._note_taken()
        if self._noted_ack < self.acked and self._journal.pending:
            # Not worth a write of its own: the agent tells it again when it is greeted.
            self._noted_ack = self.acked
            self._journal.append(f'{{"t":"ack","n":{self.acked}}}')
        done = self._journal.flush()
        if done:
            self.durable = self._next - 1
        return done

    def context(self, environment: Mapping[str, str]) -> int:
        """The number under which an environment is known here; the same for the same content."""
        content = tuple(sorted(environment.items()))
        known = self._known_contexts.get(content)
        if known is None:
            known = max(self.contexts, default=0) + 1
            self._known_contexts[content] = known
            self.contexts[known] = environment
            self._journal.append(compact_ascii({"t": "context", "id": known, "env": environment}))
        return known

    def take(self, job: Job) -> None:
        """Note that a job has been taken."""
        self.jobs[job.key] = job
        job.worker = self.worker
        job.message["context"] = job.context
        self._taken.append(job.message)

    def start(self, job: Job) -> bool:
        """Write that a job's process is about to be started. Unless this says True, it must not be."""
        if self._taken:
            self._note_taken()
        if self._journal.blocked and not self.flush():
            return False
        job.keeper = self.keeper
        self._journal.append(self._start_line(job))
        if self.flush():
            return True
        self.put_back(job)
        return False

    def _note_taken(self) -> None:
        taken, self._taken = self._taken, []
        self._journal.append(compact_ascii({"t": "taken", "jobs": taken}))

    def put_back(self, job: Job) -> None:
        """Note that nothing was started after all."""
        self._note("back", job)

    def started(self, job: Job) -> None:
        """Note that a job's process runs, and number the event."""
        assert job.grant is not None
        job.start_text = self._event(
            job.key,
            f'{{"t":"started","n":{self._next},"job":"{job.key[0]}","attempt":{job.key[1]},"time":"{job.started_at}",'
            f'"pid":{job.pid},"cores":{list(job.grant.cores)},"gpus":{list(job.grant.gpus)}}}',
            ends=False,
        )

    def stopping(self, job: Job) -> None:
        """Note why a job is being stopped."""
        self._note("stop", job, _why(job))

    def exited(self, job: Job, status: int) -> None:
        """Write the status of a job's process, at once."""
        self._journal.append(f'{{"t":"exit","job":"{job.key[0]}","attempt":{job.key[1]},"status":{status}}}')
        self.flush()

    def ended(self, job: Job, described: str) -> None:
        """Note that a job is over, and number the event.

        Args:
            described: the event's keys from ``time`` on, as JSON without the braces.
        """
        head = f'{{"t":"ended","n":{self._next},"job":{compact_ascii(job.key[0])},"attempt":{job.key[1]},'
        self._event(job.key, head + described + "}", ends=True)
        job.state = ENDED
        job.start_text = None
        job.message = {"job": job.key[0], "attempt": job.key[1]}  # all that is still needed of it

    def ack(self, number: int) -> list[Key]:
        """Drop the events up to ``number``.

        Returns:
            The jobs whose end is now acknowledged.
        """
        over = []
        number = min(number, self.durable)
        for n in range(self.acked + 1, number + 1):
            event = self._events.pop(n, None)
            if event is not None:
                if event.text is not None:
                    self._text_bytes -= event.length
                if event.ends:
                    over.append(event.key)
        if number > self.acked:
            self.acked = number
        return over

    def forget(self, job: Job) -> None:
        """Drop a job that has ended."""
        self._note("forget", job)
        self.jobs.pop(job.key, None)

    # --------------------------------------------------------------------------------------------- events

    @property
    def unacked(self) -> bool:
        """Whether the agent has not acknowledged everything."""
        return bool(self._events)

    def event_texts(self, after: int, limit_bytes: int) -> tuple[list[str], int]:
        """The events after number ``after`` as JSON, some ``limit_bytes`` of them, and the number of the last."""
        texts = []
        size = 0
        last = max(after, self.acked)
        for n in range(last + 1, self.durable + 1):
            event = self._events.get(n)
            last = n
            if event is None:
                continue
            texts.append(event.text if event.text is not None else self._journal.read(event.offset, event.length))
            size += event.length
            if size >= limit_bytes:
                break
        return texts, last

    def end_text(self, key: Key) -> Optional[str]:
        """The ``ended`` event of a job that is not yet acknowledged."""
        for event in self._events.values():
            if event.key == key and event.ends:
                return event.text if event.text is not None else self._journal.read(event.offset, event.length)
        return None

    def _event(self, key: Key, text: str, *, ends: bool) -> str:
        place = self._journal.append(text)
        keep = self._text_bytes + len(text) <= EVENT_TEXT_BYTES
        self._events[self._next] = Event(key, ends, text if keep else None, place)
        if keep:
            self._text_bytes += place[1]
        self._next += 1
        return text

    # --------------------------------------------------------------------------------------------- compaction

    def compact_when_due(self, *, idle: bool) -> None:
        """Write the journal anew when that is worth it."""
        size = self._journal.size
        if size > max(COMPACT_BYTES, 2 * self._compacted) or (
            idle and not self._events and size > max(IDLE_COMPACT_BYTES, 2 * self._compacted)
        ):
            self.compact()

    def compact(self) -> None:
        """Write the journal anew, with what is still of use alone."""
        self._compacted = self._journal.size
        if not self._journal.flush():
            return
        used = {job.context for job in self.jobs.values()}
        self.contexts = {number: env for number, env in self.contexts.items() if number in used}
        self._known_contexts = {tuple(sorted(env.items())): number for number, env in self.contexts.items()}
        lines = list(self._state_lines())
        pending = [(n, self._event_text(event)) for n, event in sorted(self._events.items())]
        places = self._journal.rewrite([*lines, *(text for _, text in pending)])
        if places is None:
            return
        for (n, _), place in zip(pending, places[len(lines) :]):
            self._events[n].offset, self._events[n].length = place
        self._compacted = self._journal.size
        self.durable = self._next - 1
        self.rewritten += 1

    def _event_text(self, event: Event) -> str:
        return event.text if event.text is not None else self._journal.read(event.offset, event.length)

    def _state_lines(self) -> Iterator[str]:
        yield compact_ascii(
            {
                "t": "spool",
                "format": FORMAT,
                "worker": self.worker,
                "boot": boot_id(),
                "next": self._next,
                "acked": self.acked,
            }
        )
        for number, environment in self.contexts.items():
            yield compact_ascii({"t": "context", "id": number, "env": environment})
        for job in self.jobs.values():
            if job.state == ENDED:
                if job.output_paths:
                    yield compact_ascii(
                        {"t": "kept", "job": job.key[0], "attempt": job.key[1], "paths": job.output_paths}
                    )
                continue
            yield compact_ascii({"t": "taken", "jobs": [{**job.message, "context": job.context}]})
            if job.state == QUEUED:
                continue
            yield self._start_line(job)
            if job.start_text is not None:
                yield job.start_text
            if job.cause is not None:
                yield self._line("stop", job, _why(job))
            if job.exit is not None and job.exit.status is not None:
                yield self._line("exit", job, f',"status":{job.exit.status}')

    def _start_line(self, job: Job) -> str:
        # Formatted by hand, as all that every job writes: the ids of jobs hold nothing that JSON would have to escape.
        count, cores, memory, gpus = job.grant or Grant()
        return (
            f'{{"t":"start","job":"{job.key[0]}","attempt":{job.key[1]},"slot":{job.slot},"at":{job.start_s!r},'
            f'"keeper":"{job.keeper}","grant":[{count},{list(cores)},{memory},{list(gpus)}]}}'
        )

    def _note(self, kind: str, job: Job, more: str = "") -> None:
        self._journal.append(self._line(kind, job, more))

    def _line(self, kind: str, job: Job, more: str = "") -> str:
        return f'{{"t":"{kind}","job":{compact_ascii(job.key[0])},"attempt":{job.key[1]}{more}}}'

    # --------------------------------------------------------------------------------------------- replay

    def _replay(self) -> None:
        for offset, length, line in self._journal.load():
            try:
                self._apply(line, (offset, length))
            except (KeyError, TypeError, ValueError, InvalidRecord) as error:
                self._log(f"the journal's line at {offset} is of no use: {error!r}")
        self.contexts = {int(number): env for number, env in self.contexts.items()}
        for n in [n for n in self._events if n <= self.acked]:
            event = self._events.pop(n)
            job = self.jobs.get(event.key)
            if event.ends and job is not None and job.state == ENDED and not job.output_paths:
                del self.jobs[event.key]
        self._next = max([self._next, self.acked + 1, *(n + 1 for n in self._events)])
        self.durable = self._next - 1

    def _apply(self, line: Line, place: tuple[int, int]) -> None:
        kind = line["t"]
        if kind == "spool":
            self.worker, self._boot = line["worker"], line["boot"]
            self._next, self.acked = line["next"], line["acked"]
            return
        if kind == "context":
            self.contexts[line["id"]] = line["env"]
            return
        if kind == "ack":
            self.acked = max(self.acked, line["n"])
            return
        if kind == "taken":
            for message in line["jobs"]:
                job = Job(message)
                job.context = message["context"]
                self.jobs[job.key] = job
            return
        key = (line["job"], line["attempt"])
        if kind == "forget":
            self.jobs.pop(key, None)
            return
        job = self.jobs.get(key) or Job({"job": key[0], "attempt": key[1], "argv": ["-"]})
        self.jobs[key] = job
        if kind == "start":
            count, cores, memory, gpus = line["grant"]
            job.grant = Grant(count, tuple(cores), memory, tuple(gpus))
            job.state, job.slot, job.start_s, job.keeper = STARTING, line["slot"], line["at"], line["keeper"]
        elif kind == "back":
            job.state, job.slot, job.grant = QUEUED, None, None
        elif kind == "started":
            job.state, job.pid, job.start_text = RUNNING, line["pid"], compact_ascii(line)
            job.started_at = line["time"]
            self.started_pids.add(job.pid)
            self._events[line["n"]] = Event(key, False, None, place)
        elif kind == "stop":
            job.cause, job.reason = line["cause"], line["reason"]
        elif kind == "exit":
            job.exit = Exit(status=line["status"])
        elif kind in ("ended", "kept"):
            job.state, job.slot, job.start_text, job.context = ENDED, None, None, None
            streams = {stream: (line.get(stream) or {}).get("path") for stream in ("stdout", "stderr")}
            job.output_paths = line.get("paths") or {stream: path for stream, path in streams.items() if path}
            job.message = {"job": key[0], "attempt": key[1]}
            if kind == "ended":
                self._events[line["n"]] = Event(key, True, None, place)

    def _renumber(self) -> None:
        import json

        self.worker = os.urandom(16).hex()
        texts = [(event, json.loads(self._event_text(event))) for _, event in sorted(self._events.items())]
        self._events.clear()
        self.acked, self._next = 0, 1
        for event, body in texts:
            body["n"] = self._next
            text = compact_ascii(body)
            job = self.jobs.get(event.key)
            if not event.ends and job is not None:
                job.start_text = text
            self._events[self._next] = Event(event.key, event.ends, text, (0, len(text)))
            self._next += 1


def _why(job: Job) -> str:
    return f',"cause":{compact_ascii(job.cause)},"reason":{compact_ascii(job.reason)}'

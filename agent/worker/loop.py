"""The loop: waits for the agent, for children and for the clock, and does what is due, one thing after the other.

Owns the composition of the worker's parts, the waking up, the meaning of the agent's messages and the leaving. One turn:
take in what has come, start what there is room for, write the journal, tell the agent. It sleeps in epoll(7) with no
time limit when there is nothing to watch.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import time
from typing import Any, Optional

from .. import __version__
from ..errors import InvalidRecord
from ..host.processes import become_subreaper, boot_id
from ..variables import RENDEZVOUS_VARIABLE, SOCKET_VARIABLE
from ..wire import SPOKEN, Message
from .files import JobFiles
from .holds import Holds
from .jobs import ENDED, QUEUED
from .launcher import Launcher
from .ledger import Ledger
from .line import TUNNEL, TUNNEL_API, Line, LocalLine, RemoteLine
from .link import Link
from .log import Log
from .monitor import Monitor
from .node import node_capacity
from .options import Options
from .outputs import Outputs
from .reader import Reader
from .recovery import Recovery
from .runner import BLOCKED_RETRY_S, Runner
from .spool import Spool
from .timers import Timer, Timers

CUT_OFF_GRACE_S = 3.0
"""Between SIGTERM and SIGKILL for jobs whose node is taken away: less than what schedulers give to all (Slurm: KillWait, 30 s)."""
HELD_LINGER_S = 86400.0
"""How long it stays at least without an agent while a job that runs on another node has its part here."""
FAREWELL_S = 5.0
"""How long a worker that is leaving waits for the agent to acknowledge what it was told last."""


class Loop:
    """One worker loop.

    Args:
        generation: counts the loops of this spool.
        bell: readable when the keeper has written something, at its end when the keeper is dead.
    """

    def __init__(self, options: Options, generation: int, bell: int, log: Log) -> None:
        self._options = options
        self._log = log
        self._bell = bell
        self._leaving = self._done = False
        self._taken_away = self._dismissed = self._left_behind = False
        self._leave_by: Optional[float] = None
        self._alone_since: Optional[float] = time.monotonic()
        self._alarm: Optional[Timer] = None
        self._retry: Optional[Timer] = None
        self._told_trouble = ""
        self._contexts: dict[Any, dict[str, str]] = {}
        self._numbers: dict[Any, int] = {}
        self._rewritten = 0
        become_subreaper()
        self._selector = selectors.DefaultSelector()
        self._timers = Timers()
        self._wake_up_on_signals()
        node = node_capacity()
        self._keeper_pid = os.getppid()
        cores = _counted(node.cores, options.cores)
        gpus = node.gpus if options.gpus is None else [str(name) for name in _counted(node.gpus, options.gpus)]
        self._memory_bytes = options.memory_bytes or node.memory_bytes
        self._ledger = Ledger(cores, self._memory_bytes, len(gpus))
        self._node = {"cores": cores, "memory_bytes": self._memory_bytes, "gpus": list(range(len(gpus)))}
        self._spool = Spool(options.spool, options.keeper, log)
        outputs = Outputs(os.path.join(options.spool, "out"))
        monitor = Monitor(self._timers)
        self._files = JobFiles(os.path.join(options.spool, "files"))
        self._launcher = Launcher(os.environ, gpus, node.cores, self._files)
        self._tunnelled = False
        for number, environment in self._spool.contexts.items():
            self._launcher.add_context(number, environment)
        self._outputs = outputs
        self._runner = Runner(
            self._spool,
            self._ledger,
            self._launcher,
            outputs,
            self._timers,
            log,
            parents=lambda: (os.getpid(), self._keeper_pid) if self._keeper_pid else (os.getpid(),),
            watch=monitor.watch,
        )
        monitor.attach(self._runner)
        self._recovery = Recovery(
            options.spool, generation, self._keeper_pid, self._runner, outputs, self._selector, self._timers, log
        )
        self._link = Link(
            options.connect or options.rendezvous,
            self._dial,
            self._selector,
            self._timers,
            self._spool,
            log,
            hello=self._hello,
            handle=self._handle,
            found=self._found,
            lost=self._lost,
        )
        self._reader = Reader(self._spool, outputs, self._timers, self._link.answer)
        self._holds = Holds(self._ledger, self._launcher, self._timers, self._link.answer, self._way_for_jobs)
        self._handlers = {
            "context": self._on_context,
            "run": self._on_run,
            "cancel": self._on_cancel,
            "hold": self._holds.take,
            "release": self._on_release,
            "read": self._reader.read,
            "forget": self._on_forget,
            "ack": self._on_ack,
            "ping": self._on_ping,
            "stop": self._on_stop,
        }

    def _dial(self) -> Line:
        """A line to the agent: by its socket, else by a tunnel it has made, else to wherever it is now."""
        self._tunnelled = False
        if self._options.connect:
            try:
                return LocalLine(self._options.connect)
            except OSError:
                if not self._options.rendezvous:
                    raise
        tunnel = os.path.join(self._options.spool, TUNNEL)
        if os.path.lexists(tunnel):
            try:
                line = LocalLine(tunnel)
            except OSError:
                pass  # one of an earlier agent
            else:
                self._tunnelled = True
                return line
        return RemoteLine(self._options.rendezvous)

    def _way_for_jobs(self) -> dict[str, str]:
        """The variables by which jobs find the agent, where it is not on this node, or may not stay there."""
        if self._tunnelled:
            return {SOCKET_VARIABLE: os.path.join(self._options.spool, TUNNEL_API), RENDEZVOUS_VARIABLE: ""}
        return {RENDEZVOUS_VARIABLE: self._options.rendezvous} if self._options.rendezvous else {}

    def run(self) -> int:
        """Work until it is time to leave.

        Returns:
            0.
        """
        if self._bell >= 0:
            os.set_blocking(self._bell, False)
            self._selector.register(self._bell, selectors.EVENT_READ, self._rung)
        self._recovery.take_over()
        self._files.keep_only(self._spool.jobs.values())
        self._link.dial()
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)  # most of what is made here dies young and in no cycle
        select, timers = self._selector.select, self._timers
        while not self._done:
            for key, events in select(timers.wait_s()):
                key.data(events)
            timers.run_due()
            self._turn()
        self._spool.compact()
        self._link.close()
        if self._options.of_allocation and self._spool.unacked:
            self._leave_behind()
        return 0

    def _leave_behind(self) -> None:
        """Nobody has acknowledged what we know, and the spool stays on a node that will not be ours."""
        from .testament import write_testament

        try:
            write_testament(self._spool, os.uname().nodename, os.path.dirname(self._options.rendezvous))
            self._left_behind = True
        except (OSError, ValueError) as error:
            self._log(f"what the agent has not heard stays in the spool: {error}")

    def _turn(self) -> None:
        runner, spool = self._runner, self._spool
        self._holds.retry()
        runner.start_ready()
        if spool.flush():
            self._outputs.empty_collected()
        else:
            self._try_again()
        self._tell_trouble()
        self._link.push(at_once=not runner.queue)
        self._reader.look()
        if not runner.busy:
            self._rest()
        spool.compact_when_due(idle=not runner.busy)

    def _try_again(self) -> None:
        """The disk takes nothing: that it does again is told to nobody. What runs meanwhile may have printed in vain."""
        for job in self._runner.active.values():
            job.disk_full = True
        if self._retry is None or self._retry.action is None:
            self._retry = self._timers.after(BLOCKED_RETRY_S, lambda: None)

    def _tell_trouble(self) -> None:
        """Tell the agent, which begins by thinking that there is none, why nothing can be started; and that it can again."""
        trouble = self._runner.trouble
        if trouble != self._told_trouble and self._link.welcomed:
            self._told_trouble = trouble
            self._link.answer({"t": "trouble", "reason": trouble})

    # --------------------------------------------------------------------------------------------- waking up

    def _wake_up_on_signals(self) -> None:
        hear, speak = os.pipe()
        os.set_blocking(hear, False)
        os.set_blocking(speak, False)
        for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _noticed)
        signal.set_wakeup_fd(speak, warn_on_full_buffer=False)
        self._hear = hear
        self._selector.register(hear, selectors.EVENT_READ, self._signalled)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))  # blocked by the keeper until now

    def _signalled(self, events: int) -> None:
        del events
        heard = os.read(self._hear, 4096)
        if signal.SIGTERM in heard or signal.SIGINT in heard:
            if self._options.of_allocation:
                self._log("told by a signal to leave: the node is being taken away, what runs is stopped")
                self._cut_off()
            else:
                self._log("told by a signal to leave: nothing more is started, what runs is waited for")
            self._leave()
        self._runner.reap()

    def _rung(self, events: int) -> None:
        del events
        if os.read(self._bell, 4096):
            self._recovery.follow()
            return
        self._log("the keeper was killed; going on without")
        self._selector.unregister(self._bell)
        os.close(self._bell)
        self._keeper_pid = 0
        self._recovery.keeper_died()

    # --------------------------------------------------------------------------------------------- the agent

    def _hello(self) -> dict[str, Any]:
        jobs = [
            [*job.key, job.state if job.state in (QUEUED, ENDED) else "running"] for job in self._spool.jobs.values()
        ]
        return {
            "protocols": list(SPOKEN),
            "worker": self._spool.worker,
            "pid": os.getpid(),
            "host": os.uname().nodename,
            "version": __version__,
            "boot_id": boot_id(),
            "node": self._node,
            "jobs": jobs,
            "holds": self._holds.keys(),
            "tunnelled": self._tunnelled,
            "first_unacked": self._spool.acked + 1,
        }

    def _found(self, acked: int, welcome: Message) -> None:
        self._alone_since = None
        self._told_trouble = ""
        share = welcome.get("share")
        if isinstance(share, dict):
            self._ledger.limit(share.get("cores"), share.get("memory_bytes"), share.get("gpus"))
        self._launcher.tell(self._way_for_jobs())
        self._acknowledge(acked)

    def _lost(self) -> None:
        self._alone_since = time.monotonic()
        self._contexts.clear()
        self._numbers.clear()
        self._reader.drop_all()

    def _handle(self, message: Message) -> None:
        handler = self._handlers.get(message["t"])
        if handler is None:
            return
        try:
            handler(message)
        except (AttributeError, KeyError, TypeError, ValueError, InvalidRecord) as error:
            self._log(f"a message of type {message['t']} is of no use: {error!r}")

    def _on_context(self, message: Message) -> None:
        environment = {str(name): str(value) for name, value in message["env"].items()}
        self._contexts[message["id"]] = environment
        self._numbers.pop(message["id"], None)

    def _on_run(self, message: Message) -> None:
        try:
            self._runner.take(message, self._context(message.get("context")))
            if self._taken_away:
                self._cut_off()
        except InvalidRecord as error:
            self._runner.refuse(message, error.message)

    def _context(self, name: Any) -> Optional[int]:
        """The spool's number of a context of this connection."""
        if name is None:
            return None
        if self._rewritten != self._spool.rewritten:
            self._rewritten = self._spool.rewritten
            self._numbers.clear()
            self._launcher.keep_contexts(self._spool.contexts)
        number = self._numbers.get(name)
        if number is None:
            if name not in self._contexts:
                raise InvalidRecord(f"run: no context {name!r}")
            number = self._numbers[name] = self._spool.context(self._contexts[name])
            self._launcher.add_context(number, self._contexts[name])
        return number

    def _on_cancel(self, message: Message) -> None:
        cause = message["cause"] if message.get("cause") in ("cut_off", "node_lost") else "cancel"
        key = (message["job"], message["attempt"])
        self._runner.cancel(key, message.get("reason"), message.get("grace_s"), cause)

    def _on_release(self, message: Message) -> None:
        self._holds.release((message["job"], message["attempt"]))

    def _on_forget(self, message: Message) -> None:
        job = self._spool.jobs.get((message["job"], message["attempt"]))
        if job is not None and job.state == ENDED:
            self._outputs.forget(job.output_paths.values())
            job.output_paths = {}
            if self._spool.end_text(job.key) is None:
                self._spool.forget(job)

    def _on_ack(self, message: Message) -> None:
        self._acknowledge(message["n"])

    def _acknowledge(self, number: int) -> None:
        for key in self._spool.ack(number):
            job = self._spool.jobs.get(key)
            if job is not None and not job.output_paths:
                del self._spool.jobs[key]

    def _on_ping(self, message: Message) -> None:
        del message
        self._link.answer({"t": "pong"})

    def _on_stop(self, message: Message) -> None:
        self._dismissed = True
        self._log("told by the agent to leave" + (" and to stop what runs" if message.get("kill") else ""))
        if message.get("kill"):
            for job in list(self._runner.active.values()):
                self._runner.stop(job, "cancel", "the worker was told to stop")
        self._leave()

    # --------------------------------------------------------------------------------------------- leaving

    @property
    def leaves_nothing(self) -> bool:
        """Whether nobody will miss the spool: all that was to be told is known, or lies where the agent finds it."""
        told = self._left_behind or (not self._spool.unacked and not self._spool.jobs)
        return told and not self._spool.blocked

    def _cut_off(self) -> None:
        """The scheduler ends the allocation, and will kill what is left in some seconds: the record shall be right by then.

        The agent is told, so that it gives us nothing more; what it sent before it heard that, it gets back as not started.
        """
        if not self._taken_away:
            self._link.answer({"t": "leaving"})
        self._taken_away = True
        for job in [job for job in self._spool.jobs.values() if job.state != ENDED]:
            self._runner.stop(job, "cut_off", "cut off: the scheduler has ended the allocation", CUT_OFF_GRACE_S)

    def _leave(self) -> None:
        self._leaving = self._runner.draining = True

    def _rest(self) -> None:
        """What there is to do when nothing runs: leave when it is time, and keep no directory busy."""
        self._launcher.step_out()
        now = time.monotonic()
        if self._leaving:
            if self._leave_by is None:
                self._leave_by = now + FAREWELL_S
            waits = self._spool.unacked or not self._link.idle or (self._taken_away and not self._dismissed)
            told = self._link.welcomed and waits
            if not told or now >= self._leave_by:
                self._done = True
            else:
                self._wake_at(self._leave_by)
        elif self._alone_since is not None and not self._spool.blocked:
            linger_s = max(self._options.linger_s, HELD_LINGER_S) if self._holds.keys() else self._options.linger_s
            until = self._alone_since + linger_s
            if now >= until:
                self._log(f"no agent for {linger_s:g} s and nothing runs: leaving")
                self._done = True
            else:
                self._wake_at(until)

    def _wake_at(self, moment: float) -> None:
        if self._alarm is None or self._alarm.action is None:
            self._alarm = self._timers.after(moment - time.monotonic(), lambda: None)


def _counted(present: list[Any], wanted: Optional[int]) -> list[Any]:
    """The first ``wanted`` of what is present; numbers that follow when more are wanted than there are."""
    if wanted is None or wanted <= len(present):
        return list(present[:wanted])
    highest = max((int(name) for name in present if str(name).isdigit()), default=-1)
    return [*present, *range(highest + 1, highest + 1 + wanted - len(present))]


def _noticed(number: int, frame: object) -> None:
    """A signal's handler: the wakeup descriptor tells the loop. Handled, not ignored, so that jobs find the default."""
    del number, frame

"""What runs on a node for a job of a batch scheduler, as text: a script for ``/bin/sh``. Pure.

The node needs nothing of lwfm. One script serves a whole submission; an element of an array finds its own part in it. The job's
files lie beside each other, their names beginning with its id and its attempt:

``.claim``
    which job of the scheduler has started it. The same job may be submitted twice, when an answer was lost: the one that comes
    second finds the claim and stands down. One that the scheduler starts anew is the same job.
``.cancel``
    it is not to be started any more.
``.exit``
    the exit record: how it ended, written beside and renamed when it is on the disk; :mod:`.record` reads it.
``.end``
    what it was told to have ended as, where there is no such record.
``.home``
    the instance of lwfm that it has of its own, if it calls lwfm where its submitter's agent is not.
``.stdout``, ``.stderr``
    what it printed; empty ones are removed in the end.

The shell's rules are those of POSIX, "Shell Command Language"; ``dd conv=fsync``, fractions of seconds of ``sleep`` and ``%N`` of
``date`` are those of GNU and of BusyBox, and only make it better.
"""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Mapping, Sequence

from ...models import JobDefn
from ...paths import HOME_VARIABLE
from ..base import JobRequest
from .scheduler import JobWords

STANDS_DOWN = 75
"""The exit code of a script that does not run its job."""
LEAVES_S = 15
"""How long an agent in the job gets to leave."""
SCHEDULER_SECONDS = 60
"""Time limits are told schedulers in minutes; what is finer the script keeps itself."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_NOT_TAKEN_OVER = frozenset(("PWD", "OLDPWD", "SHLVL", "_", "HOSTNAME"))
_OF_SCHEDULERS = re.compile(r"(SLURM|SLURMD|PBS|SGE|PE|PMI|PMIX|PALS)_.*")

_HEAD = """\
#!/bin/sh
# The jobs of one submission of lwfm, each with its own command and environment. Made by lwfm; not for use by hand.
lwfm_umask=$(umask)
umask 077
lwfm_jobs={jobs}
lwfm_native="{job_id}"
lwfm_restart="{restart}"
lwfm_element="{element}"
case $lwfm_element in "" | *[!0-9]*) lwfm_element=1 ;; esac
[ "$1" = task ] && lwfm_element=$2
"""

_MAIN = """\
lwfm_describe
lwfm_base=$lwfm_jobs/$lwfm_shard/$lwfm_job.$lwfm_attempt
lwfm_apart() { # $1: the host of the submitter's agent. Elsewhere a job that calls lwfm has an instance of its own
    [ "$(uname -n)" != "$1" ] || return 0
    export LWFM_HOME="$lwfm_base.home" LWFM_WITHIN="$LWFM_JOB_ID ${LWFM_WORKFLOW_ID-}"
    unset LWFM_SOCKET LWFM_RENDEZVOUS
}
if [ "$1" = task ]; then
    umask "$lwfm_umask"
    lwfm_environment
    cd "$lwfm_cwd" || exit 126
    lwfm_command
fi

lwfm_now() { date +%s.%N; }
lwfm_stand_down() {
    echo "lwfm: $lwfm_native does not run job $lwfm_job: $1" >&2
    exit @STANDS_DOWN@
}
lwfm_replace() { # by what is on the standard input: whole and on the disk, or not at all
    cat >"$1.part" && { dd if=/dev/null of="$1.part" conv=notrunc,fsync 2>/dev/null || :; } && mv -f "$1.part" "$1"
}
lwfm_tell_claim() { echo "$lwfm_native $lwfm_restart $(uname -n) $(lwfm_now)"; }

lwfm_leave() { # have the agent of that instance leave in order, if it is on this node
    [ -d "$lwfm_base.home" ] || return 0
    lwfm_tries=@LEAVE@
    while [ "$lwfm_tries" -gt 0 ]; do
        lwfm_agents=
        for lwfm_found in $(grep -lsF -- "$lwfm_base.home" /proc/[0-9]*/cmdline); do
            case $({ tr '\000' ' ' <"$lwfm_found"; } 2>/dev/null) in
            *" agent serve "*) lwfm_found=${lwfm_found#/proc/}; lwfm_agents="$lwfm_agents ${lwfm_found%/cmdline}" ;;
            esac
        done
        [ -n "$lwfm_agents" ] || return 0
        [ "$lwfm_tries" != @LEAVE@ ] || kill -TERM $lwfm_agents
        sleep 0.1
        lwfm_tries=$((lwfm_tries - 1))
    done
}

[ ! -e "$lwfm_base.cancel" ] || lwfm_stand_down "it was cancelled"
if (set -C; lwfm_tell_claim >"$lwfm_base.claim") 2>/dev/null; then
    for lwfm_end in exit end; do
        [ ! -e "$lwfm_base.$lwfm_end" ] || { rm -f "$lwfm_base.claim"; lwfm_stand_down "it has ended before"; }
    done
else
    read -r lwfm_owner lwfm_rest <"$lwfm_base.claim" || lwfm_owner=
    [ "$lwfm_owner" = "$lwfm_native" ] || lwfm_stand_down "${lwfm_owner:-another one} does"
    [ ! -e "$lwfm_base.end" ] || lwfm_stand_down "it has ended before"
    if [ -e "$lwfm_base.exit" ]; then
        grep -q "^caught " "$lwfm_base.exit" || lwfm_stand_down "it has ended before"
        rm -f "$lwfm_base.exit"
    fi
    lwfm_tell_claim | lwfm_replace "$lwfm_base.claim"
fi

lwfm_caught= lwfm_cause= lwfm_hit= lwfm_missing= lwfm_watcher=
lwfm_started=$(lwfm_now)
lwfm_record() { # $1: the status of the command
    {
        echo "native $lwfm_native"
        echo "restart $lwfm_restart"
        echo "host $(uname -n)"
        echo "hosts $lwfm_hosts"
        echo "started $lwfm_started"
        echo "ended $(lwfm_now)"
        echo "status $1"
        [ -z "$lwfm_caught" ] || echo "caught $lwfm_caught"
        [ -z "$lwfm_cause" ] || echo "cause $lwfm_cause"
        [ -z "$lwfm_missing" ] || printf '%s' "$lwfm_missing"
        echo times
        times
        echo end
    } >"$lwfm_base.exit.part" && {
        dd if=/dev/null of="$lwfm_base.exit.part" conv=notrunc,fsync 2>/dev/null || :
    } && mv -f "$lwfm_base.exit.part" "$lwfm_base.exit"
}
lwfm_watch() { # says after $1 seconds that they are over
    lwfm_sleep= lwfm_enough=
    trap 'lwfm_enough=1; [ -z "$lwfm_sleep" ] || kill "$lwfm_sleep" 2>/dev/null' TERM
    sleep "$1" &
    lwfm_sleep=$!
    [ -z "$lwfm_enough" ] || kill "$lwfm_sleep"
    wait "$lwfm_sleep" && kill -ALRM $$
}
lwfm_watch_no_more() { # a shell that has just been started may miss a signal
    lwfm_tries=20
    while [ "$lwfm_tries" -gt 0 ] && kill -TERM "$lwfm_watcher" 2>/dev/null; do
        sleep 0.05
        lwfm_tries=$((lwfm_tries - 1))
    done
}
lwfm_over() { # the time limit: all that runs gets its grace, then nothing more
    lwfm_hit=142 lwfm_cause=time_limit
    trap : TERM
    lwfm_all=$lwfm_child
    [ "$(ps -o pgid= -p $$ 2>/dev/null | tr -d ' ')" != $$ ] || lwfm_all=0 # the process group, where that is ours
    kill -TERM "$lwfm_all"
    lwfm_left=@GRACE@
    while [ "$lwfm_left" -gt 0 ] && kill -0 "$lwfm_child" 2>/dev/null; do
        sleep 0.1
        lwfm_left=$((lwfm_left - 1))
    done
    kill -0 "$lwfm_child" 2>/dev/null || return 0
    lwfm_record 137
    kill -KILL "$lwfm_all"
    exit 137
}
trap 'lwfm_hit=143 lwfm_caught=TERM' TERM
trap 'lwfm_hit=142; lwfm_over' ALRM
@TRAPS@
lwfm_hosts=
if [ -n "$lwfm_nodes" ]; then
    @NODES@ >"$lwfm_base.names" 2>/dev/null
    while read -r lwfm_name lwfm_rest; do
        lwfm_hosts=$lwfm_hosts${lwfm_hosts:+,}$lwfm_name
        echo "$lwfm_name slots=$lwfm_slots"
    done <"$lwfm_base.names" >"$lwfm_base.nodes"
    rm -f "$lwfm_base.names"
fi

if [ -n "$lwfm_caught" ]; then
    lwfm_status=143 # it was to end before it had begun
elif cd "$lwfm_cwd" 2>/dev/null; then
    (
        umask "$lwfm_umask"
        lwfm_environment
        if [ -n "$lwfm_nodes" ]; then
            export LWFM_NODES="$lwfm_nodes" LWFM_NODELIST="$lwfm_hosts" LWFM_NODEFILE="$lwfm_base.nodes"
        fi
        if [ -n "$lwfm_tasks" ]; then
            export LWFM_TASKS_PER_NODE="$lwfm_tasks"
            lwfm_starter
        fi
        lwfm_command
    ) </dev/null >>"$lwfm_base.stdout" 2>>"$lwfm_base.stderr" &
    lwfm_child=$!
    if [ -n "$lwfm_limit" ]; then
        lwfm_watch "$lwfm_limit" &
        lwfm_watcher=$!
    fi
    while :; do
        lwfm_hit=
        wait "$lwfm_child"
        lwfm_status=$?
        [ -n "$lwfm_hit" ] && [ "$lwfm_status" = "$lwfm_hit" ] || break
        # It was interrupted, or the command was ended by the same signal; of that one shells may know nothing any more.
        if kill -0 "$lwfm_child" 2>/dev/null; then
            wait "$lwfm_child"
            lwfm_status=$?
            [ "$lwfm_status" -gt 128 ] && kill -0 "$lwfm_child" 2>/dev/null || break
        else
            wait "$lwfm_child" 2>/dev/null
            lwfm_again=$?
            case $lwfm_again in 127 | -*) ;; *) lwfm_status=$lwfm_again ;; esac
            break
        fi
    done
    [ -z "$lwfm_watcher" ] || lwfm_watch_no_more
    [ "$lwfm_status" != 0 ] || lwfm_outputs
else
    lwfm_status=126 lwfm_cause=not_started
fi
lwfm_leave
rm -f "$lwfm_base.nodes"
for lwfm_stream in stdout stderr; do
    [ -s "$lwfm_base.$lwfm_stream" ] || rm -f "$lwfm_base.$lwfm_stream"
done
lwfm_record "$lwfm_status"
[ -z "$lwfm_missing" ] || exit 1
exit "$lwfm_status"
"""

_WROTE = """\
lwfm_wrote() { # $1: a name, or a pattern
    [ ! -e "$1" ] || return 0
    lwfm_ifs=$IFS IFS=
    for lwfm_found in $1; do
        [ ! -e "$lwfm_found" ] || { IFS=$lwfm_ifs; return 0; }
    done
    IFS=$lwfm_ifs
    lwfm_missing="${lwfm_missing}missing $1
"
}
"""
_STARTER = """\
lwfm_starter() { # becomes what starts the tasks, each of which runs this script
    lwfm_count=$((lwfm_nodes * lwfm_tasks))
    if [ -n "$lwfm_given" ]; then
        eval "set -- $lwfm_given"
    else
        set --
        for lwfm_name in mpiexec mpirun srun; do
            if command -v "$lwfm_name" >/dev/null; then set -- "$lwfm_name"; break; fi
        done
    fi
    if [ $# = 0 ] || ! command -v "$1" >/dev/null; then
        echo "lwfm: nothing on the job's PATH starts tasks: ${1:-neither mpiexec nor mpirun nor srun}" >&2
        exit 127
    fi
    exec "$@" -n "$lwfm_count" /bin/sh @SCRIPT@ task "$lwfm_element"
}
"""


def submitted_script(path: str) -> str:
    """What the scheduler is given, and may keep and show: nothing of the job."""
    why = "# Jobs of lwfm: what they run stands in a file that only their owner can read."
    return f"#!/bin/sh\n{why}\nexec /bin/sh {shlex.quote(path)}\n"


def job_script(requests: Sequence[JobRequest], jobs: str, path: str, words: JobWords, host: str) -> str:
    """The script of a submission.

    Args:
        requests: its jobs, in the order of their numbers, from 1. All ask for the same resources.
        jobs: the directory of their files. ``path``: where the script will lie.
        words: the scheduler's. ``host``: where the agent is that they can call.
    """
    defn = requests[0].defn
    grace = max(0, round(defn.grace_s * 10))
    contexts: dict[tuple[tuple[str, str], ...], int] = {}
    numbers = [contexts.setdefault(tuple(sorted(request.environment.items())), len(contexts)) for request in requests]
    parts = [_HEAD.format(jobs=shlex.quote(jobs), job_id=words.job_id, restart=words.restart, element=words.element)]
    parts += [_context(number, dict(environment)) for environment, number in contexts.items()]
    parts.append(_cases("describe", [_description(request) for request in requests]))
    environments = [_environment(number, request, host) for number, request in zip(numbers, requests)]
    parts.append(_cases("environment", environments))
    parts.append(_cases("command", [_command(request.defn) for request in requests]))
    parts.append(_WROTE)
    parts.append(_cases("outputs", [_outputs(request.defn) for request in requests]))
    parts.append(_STARTER.replace("@SCRIPT@", shlex.quote(path)))
    traps = "\n".join(_trap(name, pass_on=name in words.passed_on) for name in ("INT", "HUP", "USR1", "USR2"))
    main = _MAIN.replace("@STANDS_DOWN@", str(STANDS_DOWN)).replace("@GRACE@", str(grace))
    main = main.replace("@LEAVE@", str(LEAVES_S * 10))
    parts.append(main.replace("@TRAPS@", traps).replace("@NODES@", words.nodes))
    return "".join(parts)


def _trap(name: str, *, pass_on: bool) -> str:
    """Outlive a signal, and tell ``wait`` from what it interrupted."""
    then = f'; kill -{name} "$lwfm_child" 2>/dev/null' if pass_on else ""
    return f"trap 'lwfm_hit={128 + signal.Signals['SIG' + name]}{then}' {name}"


def _cases(name: str, lines: Sequence[str]) -> str:
    """A shell function that does what is of this element."""
    if len(set(lines)) == 1:
        return f"lwfm_{name}() {{\n:\n{lines[0]}\n}}\n"
    cases = "".join(f"{number})\n{line}\n;;\n" for number, line in enumerate(lines, 1))
    return f"lwfm_{name}() {{\ncase $lwfm_element in\n{cases}esac\n}}\n"


def _context(number: int, environment: Mapping[str, str]) -> str:
    lines = [f"lwfm_context_{number}() {{", ":"]
    for name, value in sorted(environment.items()):
        if name == "TMPDIR":  # the scheduler may have made one for this job
            lines.append(f'[ -n "${{TMPDIR-}}" ] || export TMPDIR={shlex.quote(value)}')
        elif name not in _NOT_TAKEN_OVER and not _OF_SCHEDULERS.fullmatch(name):
            lines += _exported(name, value)
    return "\n".join([*lines, "}", ""])


def _exported(name: str, value: str) -> list[str]:
    """A shell can set only what it could name; what another one has put beside that is not for it."""
    return [f"export {name}={shlex.quote(value)}"] if _NAME.fullmatch(name) else []


def _description(request: JobRequest) -> str:
    resources = request.defn.resources
    several = resources.nodes is not None or resources.tasks_per_node is not None
    limit = resources.time_limit_s
    own_limit = limit is not None and limit % SCHEDULER_SECONDS != 0
    told = {
        "job": request.job_id,
        "attempt": str(request.attempt),
        "shard": request.job_id[-2:],
        "cwd": request.defn.cwd or "/",
        "limit": f"{limit:.3f}" if own_limit else "",
        "nodes": str(resources.nodes or 1) if several else "",
        "slots": str(resources.tasks_per_node or resources.cores or 1),
        "tasks": str(resources.tasks_per_node or ""),
        "given": shlex.join(shlex.split(resources.starter or "")),
    }
    return " ".join(f"lwfm_{name}={shlex.quote(value)}" for name, value in told.items())


def _environment(context: int, request: JobRequest, host: str) -> str:
    lines = [f"lwfm_context_{context}"]
    for name, value in {**request.defn.env, **request.variables}.items():
        lines += _exported(name, value)
    if HOME_VARIABLE not in request.defn.env:
        lines.append(f"lwfm_apart {shlex.quote(host)}")
    return "\n".join(lines)


def _command(defn: JobDefn) -> str:
    words = ["/bin/sh", "-c", defn.command] if isinstance(defn.command, str) else defn.command
    return "exec " + " ".join(map(shlex.quote, words))


def _outputs(defn: JobDefn) -> str:
    return "\n".join(f"lwfm_wrote {shlex.quote(name)}" for name in defn.outputs) or ":"

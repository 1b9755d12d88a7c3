"""A real Grid Engine on the nodes: the qmaster on this machine, an execution daemon on each node.

::

    with GridEngine(nodes=3, slots=2) as grid:
        job = grid.batch("cat $PE_HOSTFILE", slots=6)
        assert job.wait() == 0

All that it knows and writes is in the directory of the nodes: an ``SGE_ROOT`` of its own, spooled as plain files, so nothing
of what a package or somebody else has set up on this machine is used or changed but the programs. ``qrsh`` starts what it starts
by itself (``builtin``), over connections of Grid Engine's own. What the files say is told by sge_bootstrap(5), sge_conf(5),
sge_queue_conf(5), sge_pe(5) and sge_host_conf(5).
"""

from __future__ import annotations

import functools
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from support.machines import LOG_TAIL_BYTES, READY_TIMEOUT_S, Machines
from support.network import free_port
from support.rooms import COMMAND_TIMEOUT_S, kill
from support.waiting import wait_until

PROGRAMS = Path("/usr/lib/gridengine")
SHARED = Path("/usr/share/gridengine")
"""Where the packages have them, with no variable or file of this machine's set-up in between."""

BOOTSTRAP = """\
admin_user none
default_domain none
ignore_fqdn true
spooling_method classic
spooling_lib libspoolc
spooling_params {sge}/default/common;{sge}/spool/qmaster
binary_path {sge}/bin
qmaster_spool_dir {sge}/spool/qmaster
security_mode none
listener_threads 2
worker_threads 2
scheduler_threads 1
"""
# Jobs are root's. Commands that start on a node go there over connections of Grid Engine's own (builtin).
CONFIGURATION = """\
conf_version 0
execd_spool_dir {sge}/spool
mailer /bin/true
xterm /bin/false
load_sensor none
prolog none
epilog none
shell_start_mode unix_behavior
login_shells sh,bash
min_uid 0
min_gid 0
user_lists none
xuser_lists none
projects none
xprojects none
enforce_project false
enforce_user auto
load_report_time 00:00:01
max_unheard {node_timeout}
reschedule_unknown 00:00:00
loglevel log_info
administrator_mail none
set_token_cmd none
pag_cmd none
token_extend_time none
shepherd_cmd none
qmaster_params none
execd_params none
reporting_params accounting=true reporting=false flush_time=00:00:01 joblog=false sharelog=00:00:00
finished_jobs 100
gid_range 65400-65500
qlogin_command builtin
qlogin_daemon builtin
rlogin_command builtin
rlogin_daemon builtin
rsh_command builtin
rsh_daemon builtin
max_aj_instances 2000
max_aj_tasks 75000
max_u_jobs 0
max_jobs 0
max_advance_reservations 0
auto_user_oticket 0
auto_user_fshare 0
auto_user_default_project none
auto_user_delete_time 86400
delegated_file_staging false
reprioritize 0
jsv_url none
jsv_allowed_mod ac,h,i,e,o,j,M,N,p,w
"""
SCHEDULER = """\
algorithm default
schedule_interval 0:0:1
maxujobs 0
queue_sort_method 0
job_load_adjustments NONE
load_adjustment_decay_time 0:0:0
load_formula slots
schedd_job_info false
flush_submit_sec 1
flush_finish_sec 1
params none
reprioritize_interval 0:0:0
halftime 168
usage_weight_list cpu=1.0
compensation_factor 5.0
weight_user 0.25
weight_project 0.25
weight_department 0.25
weight_job 0.25
weight_tickets_functional 0
weight_tickets_share 0
share_override_tickets TRUE
share_functional_shares TRUE
max_functional_jobs_to_schedule 200
report_pjob_tickets FALSE
max_pending_tasks_per_job 50
halflife_decay_list none
policy_hierarchy OFS
weight_ticket 0.0
weight_waiting_time 0.0
weight_deadline 3600000.0
weight_urgency 0.1
weight_priority 1.0
max_reservation 0
default_duration INFINITY
"""
HOST = """\
hostname {host}
load_scaling NONE
complex_values NONE
user_lists NONE
xuser_lists NONE
projects NONE
xprojects NONE
usage_scaling NONE
report_variables NONE
"""
PARALLEL = """\
pe_name round
slots 999
user_lists NONE
xuser_lists NONE
start_proc_args NONE
stop_proc_args NONE
allocation_rule $round_robin
control_slaves TRUE
job_is_first_task FALSE
urgency_slots min
accounting_summary TRUE
qsort_args NONE
"""
QUEUE = """\
qname all.q
hostlist {hosts}
seq_no 0
load_thresholds NONE
suspend_thresholds NONE
nsuspend 1
suspend_interval 00:05:00
priority 0
min_cpu_interval 00:05:00
processors UNDEFINED
qtype BATCH INTERACTIVE
ckpt_list NONE
pe_list round
rerun FALSE
slots {slots}
tmpdir /run
shell /bin/sh
prolog NONE
epilog NONE
shell_start_mode unix_behavior
starter_method NONE
suspend_method NONE
resume_method NONE
terminate_method NONE
notify 00:00:05
owner_list NONE
user_lists NONE
xuser_lists NONE
subordinate_list NONE
complex_values NONE
projects NONE
xprojects NONE
calendar NONE
initial_state default
s_rt INFINITY
h_rt INFINITY
s_cpu INFINITY
h_cpu INFINITY
s_fsize INFINITY
h_fsize INFINITY
s_data INFINITY
h_data INFINITY
s_stack INFINITY
h_stack INFINITY
s_core INFINITY
h_core INFINITY
s_rss INFINITY
h_rss INFINITY
s_vmem INFINITY
h_vmem INFINITY
"""

# What the qmaster finds when it starts is made here, where the nodes' names are known; the queue's instances on the nodes
# it makes itself. An execution daemon that comes before it answers tries again only after a while. Its environment is that
# of its jobs: nothing of ours is in it.
START_ON_MACHINE = """\
programs=$SGE_ROOT/bin/$SGE_ARCH given=$SGE_ROOT/given resources=$SGE_ROOT/util/resources
{
    LD_LIBRARY_PATH=$programs "$programs/spoolinit" \\
        classic libspoolc "$SGE_ROOT/$SGE_CELL/common;$SGE_ROOT/spool/qmaster" init
    "$programs/spooldefaults" configuration "$given/configuration"
    "$programs/spooldefaults" complexes "$resources/centry"
    "$programs/spooldefaults" usersets "$resources/usersets"
    "$programs/spooldefaults" managers root
    "$programs/spooldefaults" adminhosts "$(hostname -s)"
    "$programs/spooldefaults" exechosts "$given/exechosts"
    "$programs/spooldefaults" pes "$given/pes"
    "$programs/sge_qmaster"
    until "$programs/qconf" -as "$(hostname -s)"; do sleep 0.05; done
    "$programs/qconf" -ah "$(cat "$given/nodes")"
    "$programs/qconf" -Aq "$given/queue"
    : >"$SGE_ROOT/answers"
} </dev/null >>"$root/log/qmaster.out" 2>&1
"""
START_ON_NODE = """\
until [ -e "$SGE_ROOT/answers" ]; do sleep 0.05; done
env -i PATH="$PATH" SGE_ROOT="$SGE_ROOT" SGE_CELL="$SGE_CELL" SGE_QMASTER_PORT="$SGE_QMASTER_PORT" \\
    SGE_EXECD_PORT="$SGE_EXECD_PORT" "$SGE_ROOT/bin/$SGE_ARCH/sge_execd" </dev/null >>"$root/log/execd-$host.out" 2>&1
"""


class GridEngine(Machines):
    """A Grid Engine that is there until the block ends.

    Args:
        nodes, private: as of ``Machines``.
        slots: of each node.
        node_timeout_s: the qmaster gives up a node that has not told anything for this long.
    """

    programs = (*(str(PROGRAMS / name) for name in ("sge_qmaster", "sge_execd", "qsub")), *Machines.programs)
    daemons = ("sge_execd", *Machines.daemons)
    start_on_machine = START_ON_MACHINE
    start_on_node = START_ON_NODE

    def __init__(self, nodes: int = 3, slots: int = 2, node_timeout_s: int = 300, private: Sequence[str] = ()) -> None:
        super().__init__(nodes, private)
        self.slots, self.node_timeout_s = slots, node_timeout_s
        self._ports = (free_port(), free_port())

    def variables(self) -> dict[str, str]:
        told = subprocess.run([SHARED / "util" / "arch"], capture_output=True, text=True, check=True)
        qmaster, execd = map(str, self._ports)
        return {
            "SGE_ROOT": str(self.root / "sge"),
            "SGE_CELL": "default",
            "SGE_ARCH": told.stdout.strip(),
            "SGE_QMASTER_PORT": qmaster,
            "SGE_EXECD_PORT": execd,
        }

    def write_scheduler(self) -> None:
        sge, arch = self.root / "sge", self.variables()["SGE_ARCH"]
        (sge / "spool" / "qmaster" / "job_scripts").mkdir(parents=True)
        for name in ("bin", "lib", "utilbin"):
            (sge / name).mkdir()
            (sge / name / arch).symlink_to(PROGRAMS)
        (sge / "util").symlink_to(SHARED / "util")
        hosts = (self.root / "hosts-machine").read_text()
        # The first that fits counts: a qmaster whose name is that of the loopback is not found by the nodes.
        (self.root / "hosts-machine").write_text(f"{self.address} {self.machine}\n{hosts}")
        timeout = time.strftime("%H:%M:%S", time.gmtime(self.node_timeout_s))
        texts = {
            "default/common/bootstrap": BOOTSTRAP.format(sge=sge),
            "default/common/act_qmaster": f"{self.machine}\n",
            "default/common/cluster_name": "test\n",
            "default/common/sched_configuration": SCHEDULER,
            "given/configuration": CONFIGURATION.format(sge=sge, node_timeout=timeout),
            "given/nodes": ",".join(self.hosts),
            "given/pes/round": PARALLEL,
            "given/queue": QUEUE.format(hosts=" ".join(self.hosts), slots=self.slots),
            **{f"given/exechosts/{host}": HOST.format(host=host) for host in ("template", "global", *self.hosts)},
        }
        for name, text in texts.items():
            (sge / name).parent.mkdir(parents=True, exist_ok=True)
            (sge / name).write_text(text)

    def restore(self) -> None:
        if self.run_grid("qstat", "-u", "*").strip():
            self.run_grid("qdel", "-u", "*")
        wait_until(lambda: not self.run_grid("qstat", "-u", "*").strip(), "the jobs to be gone", on_timeout=self.log)
        for host in self.hosts:
            wait_until(functools.partial(self._empty, host), f"{host} to be empty", on_timeout=self.log)
        self.wait_ready()

    def wait_ready(self, hosts: Optional[Sequence[str]] = None, timeout_s: float = READY_TIMEOUT_S) -> None:
        waiting = set(self.hosts if hosts is None else hosts)

        def ready() -> bool:
            states = self.states()
            return all(states.get(host) == "" for host in waiting)

        wait_until(ready, f"{sorted(waiting)} to be ready", timeout_s=timeout_s, on_timeout=self.log)
        for host in sorted(waiting):
            self.wait_for_sshd(host)

    def run_grid(self, *argv: str, check: bool = True) -> str:
        """What a command of Grid Engine on this machine prints."""
        environment = self.variables()
        path = f"{environment['SGE_ROOT']}/bin/{environment['SGE_ARCH']}"
        return self.run(f"{path}/{argv[0]}", *argv[1:], check=check).stdout

    def batch(self, script: str, *, slots: int, options: Sequence[str] = ()) -> GridJob:
        """Submit a batch job in the parallel environment that takes slots of the nodes in turn.

        Args:
            script: a shell script without its ``#!`` line.
            slots: how many in all.
            options: more for qsub.
        """
        path = self.root / "jobs" / f"script-{len(os.listdir(self.root / 'jobs'))}"
        path.write_text(f"#!/bin/sh\n{script}\n")
        words = ["-terse", "-pe", "round", str(slots), "-j", "y", "-o", f"{self.root}/jobs/$JOB_ID.out", *options]
        return GridJob(self, self.run_grid("qsub", *words, str(path)).strip())

    def states(self) -> dict[str, str]:
        """What the queue says of each node, in the letters of qstat(1): none is good, ``au`` was not heard of."""
        lines = map(str.split, self.run_grid("qstat", "-f", check=False).splitlines())
        found = [words for words in lines if words and words[0].startswith("all.q@")]
        return {words[0].partition("@")[2]: "".join(words[5:]) for words in found}

    def _empty(self, host: str) -> bool:
        """Nothing is left of jobs: Grid Engine itself leaves alone what of root's has left the job's session."""
        left = self.processes(host, daemons=False)
        for pid in left:
            kill(pid)
        return not left


class GridJob:
    """A batch job of a Grid Engine."""

    def __init__(self, grid: GridEngine, job_id: str) -> None:
        self.grid = grid
        self.job_id = job_id

    def hosts(self) -> list[str]:
        """The nodes that it has, that of the script first."""
        told = self.grid.run_grid("qstat", "-g", "t", "-u", "*")
        rows = [line.split() for line in told.splitlines()]
        mine = [row for row in rows if row and row[0] == self.job_id and "@" in row[7]]  # else it waits
        found = {row[7].partition("@")[2]: row[8] for row in mine}
        return sorted(found, key=lambda host: (found[host] != "MASTER", host))

    def wait(self, timeout_s: float = COMMAND_TIMEOUT_S) -> int:
        """Wait until it has ended; the script's exit code, 128 and more when a signal ended it."""

        accounting = self.grid.root / "sge" / "default" / "common" / "accounting"

        def ended() -> Optional[str]:
            lines = accounting.read_text().splitlines() if accounting.exists() else []
            records = [line.split(":") for line in lines if not line.startswith("#")]  # sge_accounting(5)
            return next((record[12] for record in records if record[5] == self.job_id), None)

        return int(wait_until(ended, f"job {self.job_id} to end", timeout_s=timeout_s, on_timeout=self._tell))

    def output(self) -> str:
        """What it printed so far."""
        path = self.grid.root / "jobs" / f"{self.job_id}.out"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def _tell(self) -> str:
        return f"{self.grid.run_grid('qstat')}\n{self.output()[-LOG_TAIL_BYTES:]}\n{self.grid.log()}"

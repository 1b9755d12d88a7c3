"""Allocations that are told by a file of nodes, or a list of their kind: PBS, LSF and Cobalt.

How each says it is taken from the pbsdsh(1B) of OpenPBS and the exported variables of TORQUE, the LSF 10.1 reference, and
the guide to Cobalt of the ALCF.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Optional

from .model import Allocation, Ask, NodeShare, Read
from .parts import check_host, malformed, read_hosts, whole_number


def find_pbs(environment: Mapping[str, str], read: Read, _ask: Ask, _now: float) -> Optional[Allocation]:
    """OpenPBS, PBS Professional and TORQUE.

    The node file has a line for each slot (TORQUE) or each MPI rank (the others). Where ``NCPUS``, which is about the
    first node, says more than the lines do, the lines are ranks that have several cores: the first node then has NCPUS,
    and of the others nothing is known. When the job ends is not told in a form that all of them share.
    """
    job = environment.get("PBS_JOBID")
    if not job:
        return None
    hosts = read_hosts(environment, "PBS_NODEFILE", read, told="PBS_JOBID")
    lines: dict[str, list[int]] = {}
    for index, host in enumerate(hosts):
        lines.setdefault(host, []).append(index)
    processors = whole_number(environment, "NCPUS")
    ranks = processors is not None and processors > len(lines[hosts[0]])
    nodes = []
    for host, found in lines.items():
        cores = (processors if host == hosts[0] else None) if ranks else len(found)
        nodes.append(NodeShare(host, cores=cores, index=found[0]))
    return Allocation("pbs", job, tuple(nodes))


def find_lsf(environment: Mapping[str, str], read: Read, _ask: Ask, _now: float) -> Optional[Allocation]:
    """LSF. All jobs of an array share ``LSB_JOBID``, so the index belongs to the name.

    Some sites give a batch host with one slot, a launch node that is no place for work, before the nodes themselves.
    Nothing in the environment tells it from a node with one slot, so it is kept.
    """
    job = environment.get("LSB_JOBID")
    if not job:
        return None
    index = environment.get("LSB_JOBINDEX") or "0"
    name = "LSB_MCPU_HOSTS"
    counts: dict[str, int] = {}
    if environment.get(name):  # host slots host slots ...
        words = environment[name].split()
        for host, slots in zip(words[::2], words[1::2]):
            if not re.fullmatch(r"\d{1,9}", slots, re.ASCII):
                raise malformed(environment, name)
            counts[check_host(host, name)] = counts.get(host, 0) + int(slots)
        if len(words) % 2 or not counts:
            raise malformed(environment, name)
    else:
        for host in read_hosts(environment, "LSB_DJOB_HOSTFILE", read, told="LSB_JOBID"):
            counts[host] = counts.get(host, 0) + 1
    nodes = tuple(NodeShare(host, cores=slots) for host, slots in counts.items())
    return Allocation("lsf", job if index == "0" else f"{job}[{index}]", nodes)


def find_cobalt(environment: Mapping[str, str], read: Read, _ask: Ask, _now: float) -> Optional[Allocation]:
    """Cobalt: its node file has each host once, and it tells no more."""
    job = environment.get("COBALT_JOBID")
    if not job:
        return None
    hosts = read_hosts(environment, "COBALT_NODEFILE", read, told="COBALT_JOBID")
    return Allocation("cobalt", job, tuple(NodeShare(host) for host in dict.fromkeys(hosts)))

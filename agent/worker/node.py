"""What the node has to give: cores, memory and GPUs that this process may use.

Looks at the affinity, the control groups (versions 1 and 2, from the process's own up to the root) and the devices;
changes nothing. Sources: cgroups(7), the kernel's admin guide on cgroup-v2 ("cpu.max", "memory.max").
"""

from __future__ import annotations

import os
from typing import NamedTuple, Optional

from ..variables import GPU_VARIABLES
from .disk import listed

GPUS_VARIABLE = "LWFM_GPUS"
"""Names the GPUs that may be used, where that is not what their own variables say."""
_NO_LIMIT_BYTES = 1 << 60
"""Control groups of version 1 say "no limit" with a number near the largest there is."""


class Node(NamedTuple):
    """What a node has to give: indices of cores, bytes of memory, and names of GPUs as their variables take them."""

    cores: list[int]
    memory_bytes: int
    gpus: list[str]


def node_capacity() -> Node:
    """What this process may use of the node: within its affinity and its control groups."""
    if hasattr(os, "sched_getaffinity"):
        cores = sorted(os.sched_getaffinity(0))
    else:
        cores = list(range(os.cpu_count() or 1))
    quota = _cpu_quota()
    if quota is not None:
        cores = cores[: max(1, int(quota + 0.5))]
    return Node(cores, _memory_bytes(), _gpus())


def _memory_bytes() -> int:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [_number(text) for text in _group_files("memory", "memory.max", "memory.limit_in_bytes")]
    return min([total, *(limit for limit in limits if limit is not None and 0 < limit < _NO_LIMIT_BYTES)])


def _cpu_quota() -> Optional[float]:
    quotas = []
    for text in _group_files("cpu", "cpu.max", ""):
        quota, _, period = text.partition(" ")
        if quota.isdigit() and period.strip().isdigit():
            quotas.append(int(quota) / int(period))
    periods = _group_files("cpu", "", "cpu.cfs_period_us")
    for text, period in zip(_group_files("cpu", "", "cpu.cfs_quota_us"), periods):
        if text.isdigit() and period.isdigit() and int(period):
            quotas.append(int(text) / int(period))
    return min(quotas) if quotas else None


def _group_files(controller: str, name: str, name_in_v1: str) -> list[str]:
    """What the file says in each control group this process is in, from its own up to the root."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as source:
            lines = source.read().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "" and name:
            root, wanted = "/sys/fs/cgroup", name
        elif controller in controllers.split(",") and name_in_v1:
            root, wanted = f"/sys/fs/cgroup/{controllers}", name_in_v1
        else:
            continue
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts), -1, -1):
            try:
                with open(os.path.join(root, *parts[:depth], wanted), encoding="ascii") as source:
                    found.append(source.read().strip())
            except OSError:
                pass
    return found


def _gpus() -> list[str]:
    """The GPUs as their variables name them: what was given to this process, else what the node has."""
    for variable in (GPUS_VARIABLE, *GPU_VARIABLES):
        told = os.environ.get(variable)
        if told is not None:
            names = [name.strip() for name in told.split(",")]
            return [name for name in names if name and name not in ("none", "-1", "NoDevFiles", "void")]
    nvidia = [name for name in listed("/dev") if name.startswith("nvidia") and name[6:].isdigit()]
    count = len(nvidia) or sum(_is_kfd_gpu(number) for number in listed("/sys/class/kfd/kfd/topology/nodes"))
    return [str(index) for index in range(count)]


def _is_kfd_gpu(number: str) -> bool:
    try:
        with open(f"/sys/class/kfd/kfd/topology/nodes/{number}/gpu_id", encoding="ascii") as source:
            return source.read().strip() not in ("", "0")
    except OSError:
        return False


def _number(text: str) -> Optional[int]:
    return int(text) if text.isdigit() else None

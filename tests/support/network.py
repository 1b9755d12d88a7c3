"""Addresses and ports of this machine that are free, and ones that answer."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import subprocess


def free_network() -> str:
    """The first three numbers of addresses that no route of this machine has; one process takes them from one place on,
    another from another, so that two at the same time do not meet."""
    told = subprocess.run(["ip", "-4", "route", "show", "table", "all"], capture_output=True, text=True, check=True)
    texts = re.findall(r"\b\d+\.\d+\.\d+\.\d+(?:/\d+)?", told.stdout)
    taken = [ipaddress.ip_network(text, strict=False) for text in texts if not text.startswith("0.")]
    for wide in map(ipaddress.ip_network, ("10.128.0.0/9", "198.18.0.0/15")):  # the latter is for benchmarks
        count = wide.num_addresses // 256
        for offset in range(count):
            network = ipaddress.ip_network((int(wide[0]) + (os.getpid() + offset) % count * 256, 24))
            if not any(network.overlaps(other) for other in taken):
                return str(network[0]).rpartition(".")[0]
    raise AssertionError("no network is free for a cluster")


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("", 0))
        return int(listening.getsockname()[1])


def answers(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=0.3):
            return True
    except OSError:
        return False

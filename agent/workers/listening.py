"""Listening for the workers of an allocation: its key, the addresses at which its nodes reach us, and the file that tells them."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from pathlib import Path

from .. import hostlist, rendezvous
from ..errors import ConfigError
from ..host.private import check_private
from ..rendezvous import Address
from .connections import Gate
from .keys import make_key
from .protocol import WorkerServer

SAMPLE = 8
"""So many nodes tell by which of our addresses a whole cluster reaches us."""
_logger = logging.getLogger(__name__)


async def listen_for(workers: WorkerServer, directory: Path, hosts: Sequence[str], gate: Gate) -> list[Address]:
    """Make the key in ``directory`` where there is none, listen for the workers on ``hosts``, and write there where.

    Returns:
        The addresses.

    Raises:
        ConfigError: there can be no key, or no address at which these hosts reach this one. OSError: it cannot be written.
    """
    key = directory / rendezvous.KEY
    if not key.exists():
        await asyncio.to_thread(make_key, key)
    check_private(key)
    own = await asyncio.to_thread(addresses_towards, hosts)
    addresses = await workers.listen(own, rendezvous.server_context(key), gate)
    rendezvous.write(directory, addresses)
    _logger.info("listening for %s at %s", hostlist.fold(hosts)[:200], ", ".join(map(shown, addresses)))
    return addresses


def shown(address: Address) -> str:
    """``10.0.0.1:4711``."""
    return f"[{address.host}]:{address.port}" if ":" in address.host else f"{address.host}:{address.port}"


def sample(hosts: Sequence[str]) -> list[str]:
    """A few of many hosts, from all over the list."""
    step = max(1, len(hosts) // SAMPLE)
    return list(hosts[::step][:SAMPLE])


def addresses_towards(hosts: Sequence[str]) -> list[str]:
    """The numeric addresses of this node from which it reaches ``hosts``: those at which they reach it.

    Raises:
        ConfigError: none of the hosts has a known address.
    """
    found: dict[str, None] = {}
    unknown = []
    for host in hosts:
        try:
            family, _, _, _, target = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(target)  # sends nothing: it only looks up the way
                found[probe.getsockname()[0]] = None
        except OSError as error:
            unknown.append(f"{host}: {error.strerror}")
    if not found:
        raise ConfigError(f"no other node can be reached from here: {'; '.join(unknown[:3])}")
    return list(found)

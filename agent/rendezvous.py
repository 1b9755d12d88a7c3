"""Where the workers of an allocation find their agent: a file of the home that only its owner can read.

It names the addresses at which the agent listens and the key of the allocation. Workers are told the file's name and read it
anew each time they dial, so that an agent that was started again, on another node even, is found. The key is a certificate
with its private key, made for this allocation: both sides show it, and trust no other (RFC 8446, mutual authentication).
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .errors import AgentUnreachable
from .host.private import check_private, write_private
from .jsontext import compact_ascii

FILE = "agent.json"
KEY = "key.pem"


class Address(NamedTuple):
    """A place to dial: a numeric address, and a port."""

    host: str
    port: int


class Rendezvous(NamedTuple):
    """What the file says.

    Args:
        addresses: where the agent listens, best first.
        key: the file with the certificate and its private key.
        host: the agent's node.
    """

    addresses: tuple[Address, ...]
    key: Path
    host: str = ""


def write(directory: Path, addresses: Sequence[Address]) -> Path:
    """Write the file into ``directory``, beside the key; whoever reads it finds the old one or the new one, whole."""
    target = directory / FILE
    told = {
        "format": 1,
        "addresses": [list(address) for address in addresses],
        "key": KEY,
        "host": socket.gethostname(),
    }
    write_private(target, compact_ascii(told).encode("ascii"))
    return target


def read(path: Path) -> Rendezvous:
    """Read the file.

    Raises:
        AgentUnreachable: it is not there, or not one of ours. InsecureState: others can read it or the key.
    """
    try:
        check_private(path)
        found = json.loads(path.read_text(encoding="ascii"))
        addresses = tuple(Address(str(host), int(port)) for host, port in found["addresses"])
        key = path.parent / str(found["key"])
        check_private(key)
    except OSError as error:
        raise AgentUnreachable(f"no agent has told where it is: {error.filename}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise AgentUnreachable(f"{path} does not tell where the agent is") from None
    return Rendezvous(addresses, key, str(found.get("host", "")))


def server_context(key: Path) -> ssl.SSLContext:
    """For the agent: it shows the key's certificate, and takes only who shows the same."""
    return _trusting(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), key)


def client_context(key: Path) -> ssl.SSLContext:
    """For a worker, likewise. No name is checked: there is one certificate that counts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _trusting(context, key)


def dial(place: Rendezvous, timeout_s: float) -> ssl.SSLSocket:
    """A connection to the agent, from another node.

    Raises:
        OSError: none of the addresses answers as the agent does.
    """
    context = client_context(place.key)
    failure: OSError = ConnectionRefusedError("it tells no address")
    for address in place.addresses:
        try:
            plain = socket.create_connection(address, timeout_s)
        except OSError as error:
            failure = error
            continue
        try:
            return context.wrap_socket(plain)
        except OSError as error:
            plain.close()
            failure = error
    raise failure


def _trusting(context: ssl.SSLContext, key: Path) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(key)
    context.load_verify_locations(key)
    return context

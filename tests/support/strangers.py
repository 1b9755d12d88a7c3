"""Somebody on the network who has not got the key: a process that opens connections, says this or that, and holds on.

::

    python tests/support/strangers.py PORT MANNER COUNT SOURCE

opens so many from the address ``SOURCE`` of this machine, prints a line with how many it holds when all are made, and stays until
its input ends. It holds as many at a time as it has descriptors for; the oldest give way.
"""

from __future__ import annotations

import os
import resource
import selectors
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HELLO = bytes.fromhex("1603010200010001fc0303")
"""The beginning of a ClientHello of 512 bytes (RFC 8446, 4.1.2), of which the rest does not come."""
WORDS = {
    "silent": b"",
    "slow": HELLO,
    "garbage": os.urandom(2000),
    "frames": b'\0\0\0\x0e[{"t":"hello"}]',
    "http": b"POST /v1/agent/stop HTTP/1.1\r\nHost: lwfm\r\nContent-Length: 2\r\n\r\n{}",
}
"""What it says, by the manner. ``slow`` sends its beginning a byte at a time, as long as it lives."""
SPARE_DESCRIPTORS = 64
BYTE_EVERY_S = 0.05


def main(port: int, manner: str, count: int, source: str) -> None:
    """Be the stranger."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    held: deque[socket.socket] = deque()
    for _ in range(count):
        if len(held) >= most - SPARE_DESCRIPTORS:
            held.popleft().close()
        knocking = socket.socket()
        knocking.bind((source, 0))
        knocking.settimeout(30)
        try:
            knocking.connect(("127.0.0.1", port))
            knocking.send(WORDS[manner][:1] if manner == "slow" else WORDS[manner])
        except OSError:
            knocking.close()
            continue
        knocking.setblocking(False)
        held.append(knocking)
    sys.stdout.write(f"{len(held)}\n")
    sys.stdout.flush()
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    sent = 1
    while not selector.select(BYTE_EVERY_S):
        for knocking in held if manner == "slow" else ():
            try:
                knocking.send(HELLO[sent % len(HELLO) :][:1])
            except OSError:
                pass  # hung up on
        sent += 1


@contextmanager
def stranger(port: int, manner: str, count: int, source: str = "127.0.0.1") -> Iterator[int]:
    """A stranger that has made its connections, and stays until the block ends; how many it holds."""
    words = [sys.executable, str(Path(__file__).resolve()), str(port), manner, str(count), source]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        told = process.stdout.readline()
        assert told, f"the stranger ended: {process.wait(10)}"
        yield int(told)
    finally:
        process.kill()
        process.communicate()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4])

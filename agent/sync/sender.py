"""The side of an exchange of contents that has them: answers portions of requests from files that its own records name.

A path that this instance recorded is opened and sent; one that another instance recorded is sent only once its checksum is
known to be right, so that no record of a peer's makes us send it another file of ours. Writes nothing.
"""

from __future__ import annotations

import base64
import binascii
import os
import time
import zlib
from contextlib import suppress
from typing import Any, Optional

from ..data.contents import has_content, is_sha256, open_file
from ..records import JSON
from .contents import (
    PORTION_FILES,
    SMALL_BYTES,
    Asked,
    Moved,
    Pacer,
    Tell,
    silent,
    whole_number,
)
from .frames import Line, Refused
from .wanted import DataRequest

PROBE_BYTES = 64 * 1024
LEAST_BODY_BYTES, MOST_BODY_BYTES = 64 * 1024, 1024 * 1024
BODY_S = 0.5
"""Between these, what is sent at once takes about so long."""
PAYS_BELOW = 0.85
"""A piece goes compressed when that makes it this much smaller, and no later."""
_NOT_ASKED_FOR = "is not among what was asked for here, or not known here"
_NOT_HERE = "no copy of it is here (any more)"


class Sender:
    """Answers one receiver.

    Args:
        line: to it. agent: of this side. request: what may be sent; whatever else is asked for is absent.
    """

    def __init__(self, line: Line, agent: Asked, request: DataRequest, tell: Tell = silent):
        self._line = line
        self._agent = agent
        self._request = request
        self._pacer = Pacer(tell)
        self._squeeze = Squeeze(line)
        self._pack: list[tuple[str, bytes]] = []
        self._pack_bytes = 0
        self._absent: list[list[str]] = []

    def run(self) -> Moved:
        """Serve until the other side has enough; what it tells of how it went.

        Raises:
            Cut: the connection ended. Refused: the other side does not keep to the exchange. LwfmError: what it reports.
        """
        while True:
            head = self._line.receive().head
            if head["t"] == "wanted":
                self._pacer.begin(whole_number(head.get("files")), whole_number(head.get("bytes")))
            elif head["t"] == "fetch":
                self._serve(asked_for(head))
            elif head["t"] == "enough":
                return Moved.from_json(head)
            else:
                raise Refused(f"the other side sent {str(head['t'])[:40]!r} while contents were to be fetched")

    def _serve(self, files: list[JSON]) -> None:
        body = {"files": files, "request": self._request.to_json()}
        known = {
            (item["sha256"], bool(item.get("output"))): item
            for item in self._agent.post("/v1/contents/where", body, repeatable=True)["files"]
        }
        for item in files:
            found = known.get((item["sha256"], "job_id" in item))
            if found is None:
                self._absent.append([item["sha256"], _NOT_ASKED_FOR])
            else:
                self._answer(item, found)
        self._send_pack()
        if self._absent:
            self._line.send({"t": "absent", "files": self._absent})
            self._absent = []
        self._line.send({"t": "served"})

    def _answer(self, item: JSON, found: JSON) -> None:
        sha256, size, offset = item["sha256"], item["size"], item["offset"]
        if "data" in found:
            data = _decoded(found["data"])
            if data is not None and len(data) == size and not offset and size <= SMALL_BYTES:
                self._add(sha256, data)
            else:
                self._absent.append([sha256, "it is of another size here"])
            return
        descriptor = _opened(found, sha256, size)
        if descriptor is None:
            self._absent.append([sha256, _NOT_HERE])
            return
        try:
            if size <= SMALL_BYTES and not offset:
                data = _read(descriptor, size)
                if len(data) == size:
                    self._add(sha256, data)
                else:
                    self._absent.append([sha256, "its file has changed"])
            else:
                self._send_large(descriptor, sha256, size, offset)
        except OSError as error:
            self._absent.append([sha256, f"its file cannot be read: {error.strerror}"])
        finally:
            os.close(descriptor)

    def _add(self, sha256: str, data: bytes) -> None:
        self._pack.append((sha256, data))
        self._pack_bytes += len(data)
        if self._pack_bytes >= self._squeeze.body_bytes:
            self._send_pack()

    def _send_pack(self) -> None:
        if not self._pack:
            return
        files = [[sha256, len(data)] for sha256, data in self._pack]
        body = b"".join(data for _, data in self._pack)
        self._pack, self._pack_bytes = [], 0
        self._squeeze.probe(body)
        self._squeeze.send({"t": "small", "files": files}, body)
        self._pacer.advance(len(files), len(body), "")

    def _send_large(self, descriptor: int, sha256: str, size: int, offset: int) -> None:
        """Send a file from an offset on; one that cannot be read to its size any more is given up."""
        self._send_pack()
        self._line.send({"t": "large", "sha256": sha256, "size": size, "from": offset})
        if hasattr(os, "posix_fadvise"):
            with suppress(OSError):
                os.posix_fadvise(descriptor, offset, 0, os.POSIX_FADV_SEQUENTIAL)
        self._pacer.advance(0, offset, sha256)
        position = offset
        while position < size:
            try:
                piece = os.pread(descriptor, min(self._squeeze.body_bytes, size - position), position)
                reason = "its file has become shorter"
            except OSError as error:
                piece, reason = b"", f"its file cannot be read: {error.strerror}"
            if not piece:
                self._line.send({"t": "absent", "files": [[sha256, reason]]})
                return
            if position == offset:
                self._squeeze.probe(piece)
            self._squeeze.send({"t": "piece"}, piece)
            position += len(piece)
            self._pacer.advance(0, len(piece), sha256)
        self._pacer.advance(1, 0, sha256)


class Squeeze:
    """Sends bodies, compressed when that is quicker: it depends on what they are, and on how quick the connection is.

    Args:
        line: where to.
    """

    def __init__(self, line: Line):
        self._line = line
        self.body_bytes = LEAST_BODY_BYTES
        """How much to send at once: what comes whole is not lost when the connection is cut."""
        self._share = 1.0
        self._squeezed_s_per_byte = 0.0
        self._sent_s_per_byte = 0.0

    def probe(self, data: bytes) -> None:
        """See how small, and how quickly, what follows becomes."""
        sample = data[:PROBE_BYTES]
        began = time.perf_counter()
        self._share = len(zlib.compress(sample, 1)) / max(1, len(sample))
        self._squeezed_s_per_byte = (time.perf_counter() - began) / max(1, len(sample))

    def send(self, head: JSON, body: bytes) -> None:
        """Send a body, whichever way."""
        if self._pays() and body:
            packed = zlib.compress(body, 1)
            if len(packed) < len(body):
                head, body = {**head, "z": 1}, packed
        began = time.perf_counter()
        self._line.send(head, body)
        if len(body) >= PROBE_BYTES:
            rate = (time.perf_counter() - began) / len(body)
            self._sent_s_per_byte = rate if not self._sent_s_per_byte else 0.8 * self._sent_s_per_byte + 0.2 * rate
            most = min(MOST_BODY_BYTES, 2 * self.body_bytes, int(BODY_S / max(self._sent_s_per_byte, 1e-12)))
            self.body_bytes = max(LEAST_BODY_BYTES, most)

    def _pays(self) -> bool:
        """Whether what is saved in sending is more than what it costs. The buffers on the way make the first few MB look
        quicker than they are: they go as they are."""
        saved = (1 - self._share) * self._sent_s_per_byte
        return self._share < PAYS_BELOW and saved > self._squeezed_s_per_byte


def asked_for(head: JSON) -> list[JSON]:
    """The files of a frame ``fetch``. Raises Refused: they are none."""
    given = head.get("files")
    if not isinstance(given, list) or not 0 < len(given) <= PORTION_FILES:
        raise Refused("the other side asked for no files, or for too many at once")
    files = []
    for item in given:
        if not isinstance(item, list) or len(item) not in (3, 4) or not is_sha256(item[0]):
            raise Refused("the other side asked for a file without its checksum")
        size, offset = whole_number(item[1]), whole_number(item[2])
        if offset > size or (len(item) == 4 and not isinstance(item[3], str)):
            raise Refused("the other side asked for a file from beyond its end")
        files.append({"sha256": item[0], "size": size, "offset": offset})
        if len(item) == 4:
            files[-1]["job_id"] = item[3]
    return files


def _opened(found: JSON, sha256: str, size: int) -> Optional[int]:
    for path in found.get("paths", ()):
        descriptor = open_file(path, size)
        if descriptor is not None:
            return descriptor
    for path in found.get("hints", ()):
        descriptor = open_file(path, size)
        if descriptor is None:
            continue
        with suppress(OSError):
            if has_content(descriptor, sha256):
                return descriptor
        os.close(descriptor)
    return None


def _read(descriptor: int, size: int) -> bytes:
    """A small file, as much of it as there is, and a byte more when it has grown."""
    pieces, left = [], size + 1
    while left:
        piece = os.read(descriptor, left)
        if not piece:
            break
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _decoded(text: Any) -> Optional[bytes]:
    try:
        return base64.b64decode(text)
    except (binascii.Error, TypeError, ValueError):
        return None

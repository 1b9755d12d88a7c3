"""The calls of the API on copies of data: what is known but not here, where copies may be, which have come.

Who asks moves the files: the process of a command, or of a sync. The agent only looks whether they are there.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

from ..data.contents import ContentStore, harmless_name, is_file_of, is_sha256
from ..data.files import file_url
from ..errors import InvalidRecord, NotFound
from ..instance import Instance
from ..matching import parse_match, parse_terms
from ..models import Metasheet
from ..recording.recorder import Recorder
from ..store import copies, origins, queries
from ..sync.wanted import DataRequest
from .call import JSON, Call, number_of

PAGE_FILES = 500
MAX_FILES = 1000
"""How many files one call may name."""
Known = Sequence["tuple[JSON, list[copies.Place]]"]
"""Data, and where copies of each may be."""


async def missing(instance: Instance, call: Call) -> JSON:
    """What is known but not here, a page of it; only data, or with ``kind`` ``outputs`` only those."""
    body = call.body()
    if body.get("kind") == "outputs":
        return await _missing_outputs(instance, DataRequest.from_json(body), *_page(body))

    def look(known: Known) -> list[JSON]:
        found = []
        for sheet, places in known:
            there = [place for place in places if is_file_of(place.path, sheet["size_bytes"])]
            if not any(place.own for place in there):
                kept = _kept(instance, sheet)
                hints = [place.path for place in there] + ([str(kept)] if kept else [])
                found.append({**sheet, "here": hints})
        return found

    return await _contents_page(instance, body, look)


async def present(instance: Instance, call: Call) -> JSON:
    """What is known and here, a page of it; with ``workflow``, only what is recorded of that one."""
    body = call.body()

    def look(known: Known) -> list[JSON]:
        found = []
        for sheet, places in known:
            if body.get("workflow") not in (None, sheet.get("workflow_id")):
                continue
            kept = _kept(instance, sheet)
            paths = [place.path for place in places if place.own and is_file_of(place.path, sheet["size_bytes"])]
            if kept is not None or paths:
                found.append({**sheet, "here": ([str(kept)] if kept else []) + paths})
        return found

    return await _contents_page(instance, body, look)


async def _contents_page(instance: Instance, body: JSON, look: Callable[[Known], list[JSON]]) -> JSON:
    """A page of the data that a request means; ``look`` chooses of them, with an eye on the files."""
    wish = _wish(DataRequest.from_json(body))
    after, limit = _page(body)

    def read(connection: Any) -> tuple[Known, Optional[str]]:
        found, more = copies.contents_page(connection, wish, after, limit)
        earlier = origins.earlier(connection)
        return [(sheet, _places(instance, earlier, other)) for sheet, other in found], more

    known, more = await instance.writer.read(read)
    return {"files": await asyncio.to_thread(look, known), "after": more}


def _page(body: JSON) -> tuple[Optional[str], int]:
    """Where a page begins, and how long it may be."""
    after, limit = body.get("after"), min(int(number_of(body, "limit")) or PAGE_FILES, PAGE_FILES)
    if after is not None and not isinstance(after, str):
        raise InvalidRecord("after must be what the call before has answered")
    return after, limit


async def _missing_outputs(instance: Instance, request: DataRequest, after: Optional[str], limit: int) -> JSON:
    def read(connection: Any) -> Any:
        outputs, more = copies.outputs_page(connection, instance.store.origin, after, limit)
        unkept = {output["sha256"]: output for output in outputs if not copies.has_blob(connection, output["sha256"])}
        return list(unkept.values()), more

    outputs, more = await instance.writer.read(read)
    most = request.max_bytes
    found = [
        output
        for output in outputs
        if output["size"] >= request.min_bytes
        and (most is None or output["size"] <= most)
        and instance.outputs.path_of(output) is None
    ]
    return {
        "files": [
            {"sha256": output["sha256"], "size_bytes": output["size"], "job_id": output["job_id"]} for output in found
        ],
        "after": more,
    }


async def where(instance: Instance, call: Call) -> JSON:
    """Where copies may be of contents that a request means."""
    body = call.body()
    request, asked = DataRequest.from_json(body.get("request")), _files(body)
    wish = _wish(request)

    def read(connection: Any) -> list[JSON]:
        known = copies.known(connection, [item["sha256"] for item in asked if not item.get("job_id")])
        earlier = origins.earlier(connection)
        return [
            _output_place(instance, connection, item)
            if item.get("job_id")
            else _data_place(instance, earlier, known[item["sha256"]], wish, item)
            for item in asked
            if (request.outputs if item.get("job_id") else request.data)
        ]

    return {"files": [found for found in await instance.writer.read(read) if found]}


def _places(instance: Instance, earlier: frozenset[str], known: copies.Known) -> list[copies.Place]:
    return known.places(instance.store.origin, instance.host, earlier)


def _data_place(
    instance: Instance, earlier: frozenset[str], known: copies.Known, wish: copies.Wish, item: JSON
) -> JSON:
    sha256 = item["sha256"]
    if known.newest(wish) is None:
        return {}
    places = _places(instance, earlier, known)
    believed, hints = ([place.path for place in places if place.own is own] for own in (True, False))
    return {"sha256": sha256, "paths": believed, "hints": hints}


def _output_place(instance: Instance, connection: Any, item: JSON) -> JSON:
    sha256 = item["sha256"]
    output = next(
        (output for output in copies.outputs_of(connection, str(item["job_id"])) if output["sha256"] == sha256), None
    )
    if output is None:
        return {}
    path = instance.outputs.path_of(output)
    if path is not None:
        return {"sha256": sha256, "output": True, "paths": [str(path)], "hints": []}
    small = instance.outputs.small(connection, sha256)
    return {} if small is None else {"sha256": sha256, "output": True, "data": base64.b64encode(small).decode("ascii")}


async def arrived(instance: Instance, call: Call) -> JSON:
    """Record copies that are here now."""
    given = call.body().get("copies")
    if not isinstance(given, list) or len(given) > MAX_FILES or not all(isinstance(item, dict) for item in given):
        raise InvalidRecord("copies must be a list of objects")

    def look() -> None:
        for item in given:
            path, size = item.get("path"), item.get("size")
            if not isinstance(path, str) or not path.startswith("/") or not isinstance(size, int):
                raise InvalidRecord(f"a copy has an absolute path and a size, not {path!r} and {size!r}"[:200])
            if not isinstance(item.get("of"), str) or not is_sha256(item.get("sha256")):
                raise InvalidRecord("a copy has a sha256, and the data that it is of")
            if not is_file_of(path, size):
                raise NotFound(f"there is no such copy at {path}")

    def work(recorder: Recorder) -> int:
        connection, origin = recorder.transaction.connection, instance.store.origin
        originals = {
            sheet["data_id"]: sheet for sheet in queries.data_by_id(connection, [item.get("of") for item in given])
        }
        known = copies.recorded_at(connection, origin, [file_url(instance.host, item["path"]) for item in given])
        recorded = 0
        for item in given:
            sheet = _arrival(instance, originals.get(item.get("of"), {}), item)
            if (sheet.url, sheet.sha256) not in known:  # else it is told again
                known.add((str(sheet.url), str(sheet.sha256)))
                recorder.record_data(sheet.to_json())
                recorded += 1
        return recorded

    await asyncio.to_thread(look)
    return {"recorded": await instance.writer.write(work)}


def _arrival(instance: Instance, original: JSON, item: JSON) -> Metasheet:
    """The record of a copy of ``original`` that is here."""
    if (original.get("sha256"), original.get("size_bytes")) != (item["sha256"], item["size"]):
        raise InvalidRecord(f"there is no data {item.get('of')} with this content"[:200])
    url = file_url(instance.host, item["path"])
    return Metasheet(
        op="get",
        url=url,
        path=item["path"],
        host=instance.host,
        size_bytes=item["size"],
        sha256=item["sha256"],
        source_url=original.get("url") if original.get("url") != url else None,
        workflow_id=original.get("workflow_id"),
    )


async def outputs(instance: Instance, call: Call) -> JSON:
    """Keep small outputs of jobs of other instances."""
    given = call.body().get("outputs")
    if not isinstance(given, list) or len(given) > MAX_FILES:
        raise InvalidRecord("outputs must be a list")
    try:
        pieces = [base64.b64decode(item, validate=True) for item in given]
    except (binascii.Error, TypeError, ValueError):
        raise InvalidRecord("outputs must be Base64") from None

    def work(recorder: Recorder) -> int:
        for piece in pieces:
            instance.outputs.keep(recorder.transaction, piece)
        return len(pieces)

    return {"kept": await instance.writer.write(work)}


async def recorded(instance: Instance, call: Call) -> JSON:
    """The files that this instance has recorded, a page of them: what there is to verify."""
    body = call.body()
    match, after = parse_match(parse_terms(DataRequest.from_json(body).match)), body.get("after")
    below = None if body.get("all") else str(instance.home.contents)
    if after is not None and not isinstance(after, str):
        raise InvalidRecord("after must be what the call before has answered")

    def read(connection: Any) -> Any:
        return copies.recorded_page(connection, instance.store.origin, match, below, after, PAGE_FILES)

    sheets, more = await instance.writer.read(read)
    for sheet in sheets:
        sheet["file"] = copies.file_path(sheet.get("url"), sheet.get("path"))
    return {"files": sheets, "after": more, "host": instance.host}


async def copy_here(instance: Instance, sheet: JSON) -> Optional[Path]:
    """A copy of data that this instance has of its own, wherever the data was recorded; None: there is none.

    Args:
        sheet: of the data, with its ``sha256``.
    """
    sha256, size = sheet.get("sha256"), sheet.get("size_bytes")
    if not is_sha256(sha256) or not isinstance(size, int):
        return None
    known = await instance.writer.read(copies.known, [str(sha256)])
    places = known[str(sha256)].places(instance.store.origin, instance.host)

    def look() -> Optional[Path]:
        own = next((place.path for place in places if place.own and is_file_of(place.path, size)), None)
        return Path(own) if own else _kept(instance, sheet)

    return await asyncio.to_thread(look)


def _kept(instance: Instance, sheet: JSON) -> Optional[Path]:
    """The copy that a sync has made of data, whether it is recorded yet or not."""
    name = harmless_name(sheet.get("path"))
    return ContentStore(instance.home.contents).find(sheet["sha256"], sheet["size_bytes"], name)


def _wish(request: DataRequest) -> copies.Wish:
    return copies.Wish.of(parse_terms(request.match), request.min_bytes, request.max_bytes)


def _files(body: JSON) -> list[JSON]:
    given = body.get("files")
    if not isinstance(given, list) or len(given) > MAX_FILES or not all(isinstance(item, dict) for item in given):
        raise InvalidRecord("files must be a list of objects")
    for item in given:
        if not is_sha256(item.get("sha256")) or not isinstance(item.get("size"), int):
            raise InvalidRecord("a file has a sha256 and a size")
    return given

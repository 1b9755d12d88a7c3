"""The calls of the API on data."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional, cast

from ..data.contents import harmless_name, is_file_of, is_sha256
from ..data.files import file_url
from ..errors import InvalidRecord, NotFound, SiteError
from ..instance import Instance
from ..matching import parse_terms
from ..models import Metasheet
from ..recording.bodies import text_of
from ..recording.recorder import Recorder
from ..records import check_properties
from ..sites.base import StoredData
from ..sites.registry import called
from ..store import Connection, copies, nesting, origins, queries
from .contents import copy_here
from .jobs import origins_of
from .server import JSON, Call


async def put(instance: Instance, call: Call) -> JSON:
    """Store or record data; it may trigger handlers."""
    body = call.body()
    properties = check_properties(body.get("properties") or {}, "properties")
    op, site = str(body.get("op") or "put"), str(body.get("site") or "local")
    if op == "event":
        return await _record(instance, Metasheet(op="event", site=site, properties=properties), body)
    path = _path(body)
    if op == "get" or body.get("notate"):
        try:
            described = await asyncio.to_thread(instance.files.describe, path, op)
        except OSError as error:
            raise NotFound(
                f"cannot read {path}: {error.strerror}", hint="give the path of a file that is there"
            ) from None
        sheet = Metasheet.from_json({**described.to_json(), "site": site, "properties": properties})
        return await _record(instance, sheet, body)
    repo = await instance.pillar(site, "repo")
    site_path = text_of(body, "site_path") if body.get("site_path") is not None else None
    if site_path is not None and ("\0" in site_path or not site_path.strip()):
        raise InvalidRecord(f"site_path cannot be {site_path!r}", hint="leave it out to record the file where it is")
    stored = await instance.call_site(site, repo.put, path, site_path, properties)
    source = f"file://{instance.host}{path}" if site_path else None
    return await _record(instance, _sheet("put", site, stored, properties, source), body)


async def fetch(instance: Instance, call: Call) -> JSON:
    """Bring data to a place of the caller's."""
    body = call.body()
    path = _path(body)
    wanted = str(body.get("data") or "")
    sheet = await instance.writer.read(_find, wanted)
    if not sheet.get("url"):
        raise InvalidRecord(f"data {sheet['data_id']} is an event without a file")
    fetched = await _fetched(instance, sheet, path)
    fetched = replace(fetched, url=file_url(instance.host, fetched.path), host=instance.host)
    if body.get("record") is False:
        return {"data_id": sheet["data_id"], "path": fetched.path, "sha256": fetched.sha256}
    record = _sheet("get", "local", fetched, sheet.get("properties") or {}, sheet["url"])
    return await _record(instance, record, body)


async def _fetched(instance: Instance, sheet: JSON, path: Path) -> StoredData:
    """Bring data to ``path``: from where it was recorded, else from a copy of the same content that is here."""
    foreign = sheet["origin"] != instance.store.origin
    site = "local" if foreign else str(sheet.get("site") or "local")
    stored = StoredData(
        sheet["url"], sheet.get("path") or "", sheet.get("host"), sheet.get("size_bytes"), sheet.get("sha256")
    )
    get = (await instance.pillar(site, "repo")).get
    copy = await copy_here(instance, sheet) if foreign else None
    if copy is None:
        try:
            if foreign and not await _is_beside(instance, sheet):
                leading = await instance.writer.read(origins.site_of, sheet["origin"])
                if leading not in instance.sites().names():
                    raise NotFound(_elsewhere(sheet), hint=_how_to_bring(sheet))
                get = (await instance.pillar(leading, "repo")).get
                return cast(StoredData, await instance.call_site(leading, get, stored, _named(sheet, path)))
            if foreign:  # the host that recorded it may be another that sees the same file
                stored = replace(stored, url=file_url(instance.host, stored.path), host=instance.host)
            kept = instance.home.contents in Path(stored.path).parents
            return cast(StoredData, await instance.call_site(site, get, stored, _named(sheet, path) if kept else path))
        except (NotFound, SiteError):
            copy = None if foreign else await copy_here(instance, sheet)
            if copy is None or str(copy) == sheet.get("path"):
                raise
    beside = replace(stored, url=file_url(instance.host, str(copy)), path=str(copy), host=instance.host)
    path = _named(sheet, path)
    return await asyncio.to_thread(called, "local", (await instance.pillar("local", "repo")).get, beside, path)


def _named(sheet: JSON, target: Path) -> Path:
    """Where a copy goes, the path of which tells something else than the name that the data has: under that into a directory."""
    return target / harmless_name(sheet.get("path")) if target.is_dir() else target


async def _is_beside(instance: Instance, sheet: JSON) -> bool:
    """Whether another instance of this host, or one in a batch job of ours, or this one before it was copied, has recorded data in
    a file that we can read; its checksum is compared later."""
    path, size = copies.file_path(sheet.get("url"), sheet.get("path")), sheet.get("size_bytes")
    seen_here = sheet.get("host") == instance.host or sheet["origin"] in await instance.writer.read(_seen_here)
    if not seen_here or path is None or not is_sha256(sheet.get("sha256")) or not isinstance(size, int):
        return False
    return await asyncio.to_thread(is_file_of, path, size)


def _seen_here(connection: Connection) -> frozenset[str]:
    """The instances whose files are where they say on this host, if we can read them at all: their checksums tell."""
    return origins.earlier(connection) | nesting.inner_origins(connection)


def _elsewhere(sheet: JSON) -> str:
    origin = sheet.get("elsewhere") or sheet.get("origin_host") or sheet["origin"]
    return f"there is no copy of this data here: it was recorded on {sheet.get('host')}, by the instance on {origin}"


def _how_to_bring(sheet: JSON) -> str:
    """The command that brings it, with a property of the data where one can be typed as it is."""
    found = (
        f"{key}={value}"
        for key, value in (sheet.get("properties") or {}).items()
        if isinstance(value, (str, int, float)) and re.fullmatch(r"[\w.+-]+=[\w.+-]+", f"{key}={value}", re.ASCII)
    )
    return f"lwfm sync pull {sheet.get('origin_host') or 'HOST'} --data {next(found, 'all')}"


async def listing(instance: Instance, call: Call) -> JSON:
    """Data, newest first."""
    read = instance.writer.read
    job, workflow = call.value("job"), call.value("workflow")
    found = await read(
        queries.list_data,
        match=parse_terms(call.values("match")),
        job=await read(queries.resolve, "job", job) if job else None,
        workflow=await read(queries.resolve, "workflow", workflow) if workflow else None,
        site=call.value("site"),
        op=call.value("op"),
        origins=await origins_of(instance, call),
        limit=call.limit(),
    )
    return {"data": found}


async def get(instance: Instance, call: Call) -> JSON:
    """One piece of data."""
    return await instance.writer.read(lambda c: queries.data(c, queries.resolve(c, "data", call.arguments[0])))


async def _record(instance: Instance, sheet: Metasheet, body: JSON) -> JSON:
    def work(recorder: Recorder) -> JSON:
        belonging = instance.service.belonging(recorder, body)
        return instance.service.put_data(recorder, Metasheet.from_json({**sheet.to_json(), **belonging}), body)

    return await instance.writer.write(work)


def _find(connection: Any, wanted: str) -> JSON:
    """Data by its url, its path or its id."""
    return queries.data_at(connection, wanted) or queries.data(connection, queries.resolve(connection, "data", wanted))


def _path(body: JSON) -> Path:
    path = body.get("path")
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
        raise InvalidRecord(f"path must be absolute, not {path!r}")
    return Path(path)


def _sheet(op: str, site: str, stored: StoredData, properties: JSON, source_url: Optional[str]) -> Metasheet:
    return Metasheet(
        op=op,
        site=site,
        url=stored.url,
        path=stored.path,
        host=stored.host,
        size_bytes=stored.size_bytes,
        sha256=stored.sha256,
        source_url=source_url,
        properties=properties,
    )

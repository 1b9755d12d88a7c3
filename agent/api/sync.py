"""The calls by which another instance, through a process that speaks for it, exchanges records with this one; and its peers."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from typing import Any

from .. import __version__
from ..errors import InvalidRecord, StoreFull
from ..instance import Instance
from ..paths import user_name
from ..store import Store, exchange, forks, fragments, log, queries, schema, sharing, stubs
from ..store.batch import MAX_ROWS, check_hash, check_place, decode, digest, encode, vector_from_json, vector_to_json
from ..sync import peers
from ..sync.address import Address
from .server import JSON, Call, Raw

LEAST_FREE_BYTES = 64 * 1024 * 1024
"""Records are not taken over when less than this, and some times what they need, is free beside the store."""
ROOM_FACTOR = 4
_logger = logging.getLogger(__name__)


async def hello(instance: Instance, call: Call) -> JSON:
    """What this instance says of itself, and what it knows unless the caller knows the same."""
    store_id = await instance.writer.alone(_marked)
    vector = await instance.writer.read(log.heads)
    told: JSON = {
        "origin": instance.store.origin, "store_id": store_id,
        "host": instance.host, "user": user_name(), "home": str(instance.home.root), "version": __version__,
        "schema": schema.SCHEMA_VERSION, "time_s": time.time(), "digest": digest(vector),
    }  # fmt: skip
    told["pruned"], told["absent"] = await instance.writer.read(stubs.counts)
    if instance.store.notice:
        told["notices"] = [instance.store.notice]
    if told["digest"] != call.value("digest"):
        told["vector"] = vector_to_json(vector)
    return told


def _marked(store: Store) -> str:
    """Note how far the store has come, for what it knows is about to be known elsewhere; what the store is called."""
    store.mark()
    return store.setting("store_id") or ""


async def hashes(instance: Instance, call: Call) -> JSON:
    """The hashes of records."""
    asked = call.body().get("asked")
    if not isinstance(asked, dict) or not all(isinstance(seqs, list) for seqs in asked.values()):
        raise InvalidRecord("asked must be an object of origins and numbers")
    for origin, seqs in asked.items():
        for seq in seqs:
            check_place(origin, seq)
    return {"found": await instance.writer.read(exchange.hashes, asked)}


async def records_read(instance: Instance, call: Call) -> Raw:
    """The next batch of an origin's records."""
    origin, after, upto = call.value("origin") or "", int(call.number("after", 0)), int(call.number("upto", 2**53))

    def read(connection: Any) -> tuple[int, bytes]:
        batch = exchange.read_batch(connection, origin, after, upto)
        return (0, b"") if batch is None else (len(batch.rows), encode(batch))

    count, data = await instance.writer.read(read)
    return Raw(data, {"Lwfm-Count": str(count)})


async def records_take(instance: Instance, call: Call) -> JSON:
    """Take a batch over, durably."""
    data = call.data()
    _check_room(instance, len(data))
    batch, hashed = await asyncio.to_thread(decode, data)
    before = instance.store.origin
    new = await instance.writer.write(lambda recorder: recorder.receive(batch, hashed))
    _look_again(instance, before)
    return {"new": new}


async def fragments_find(instance: Instance, call: Call) -> JSON:
    """Where the records of one workflow stand."""
    given = str(call.body().get("workflow") or "")
    workflow = await instance.writer.read(queries.resolve, "workflow", given)
    return {"workflow": workflow, "places": await instance.writer.read(fragments.places, workflow)}


async def fragments_read(instance: Instance, call: Call) -> Raw:
    """Some records of an origin, each with its own proof."""
    body = call.body()
    origin, seqs = str(body.get("origin")), body.get("seqs")
    if not isinstance(seqs, list) or len(seqs) > MAX_ROWS or not all(type(seq) is int for seq in seqs):
        raise InvalidRecord("seqs must be a list of numbers of records")
    found = await instance.writer.read(fragments.read, origin, seqs)
    return Raw(await asyncio.to_thread(fragments.encode, origin, found), {})


async def fragments_take(instance: Instance, call: Call) -> JSON:
    """Take over records that come without those before them."""
    data = call.data()
    _check_room(instance, len(data))
    origin, given = await asyncio.to_thread(fragments.decode, data)
    return {"new": await instance.writer.write(lambda recorder: recorder.receive_fragments(origin, given))}


async def gaps(instance: Instance, call: Call) -> JSON:
    """Where there are but stubs of records that were pruned."""
    found = await instance.writer.read(stubs.places)
    return {"absent": found.absent, "every": found.every}


async def again_take(instance: Instance, call: Call) -> JSON:
    """Take over records that others had pruned before they came here."""
    data = call.data()
    _check_room(instance, len(data))
    origin, given = await asyncio.to_thread(fragments.decode, data)
    return {"new": await instance.writer.write(lambda recorder: recorder.receive_again(origin, given))}


async def visitor_note(instance: Instance, call: Call) -> JSON:
    """Remember how far an instance that syncs with this one knows each log."""
    body = call.body()
    origin, host = body.get("origin"), body.get("host")
    check_place(origin, 0)
    if not isinstance(host, str):
        raise InvalidRecord("host must be text")
    known = vector_from_json(body.get("vector"))
    await instance.writer.write(lambda recorder: sharing.note(recorder.transaction, str(origin), host[:300], known))
    return {}


async def fork_settle(instance: Instance, call: Call) -> JSON:
    """Move our branch of a fork, if it is the one to go. The tables are made anew with it."""
    body = call.body()
    at, origin, theirs = body.get("at"), body.get("origin"), body.get("hash")
    check_place(origin, at)
    check_hash(theirs)

    def settle(store: Store) -> Any:
        with store.transaction() as transaction:
            return forks.settle(transaction, str(origin), int(at or 0), str(theirs))

    before = instance.store.origin
    branch = await instance.writer.alone(settle)
    _look_again(instance, before)
    return {"notice": branch.notice if branch else None}


async def peer_list(instance: Instance, call: Call) -> JSON:
    """The peers."""
    return {"peers": await instance.writer.read(peers.listed)}


async def peer_put(instance: Instance, call: Call) -> JSON:
    """Remember a peer, or change what is remembered of it."""
    body = call.body()
    if isinstance(body.get("address"), dict):
        Address.from_json(body["address"])
    answer: JSON = await instance.writer.write(lambda recorder: peers.put(recorder.transaction.connection, body))
    instance.syncs.look()
    return answer


async def peer_remove(instance: Instance, call: Call) -> JSON:
    """Forget a peer."""
    await instance.writer.write(lambda recorder: peers.remove(recorder.transaction.connection, call.arguments[0]))
    instance.syncs.look()
    return {}


async def peer_note(instance: Instance, call: Call) -> JSON:
    """Note what came of a sync with a peer."""
    name = call.arguments[0]
    answer: JSON = await instance.writer.write(
        lambda recorder: peers.note(recorder.transaction.connection, name, call.body())
    )
    instance.syncs.look()
    return answer


def _look_again(instance: Instance, before: str) -> None:
    """If the instance writes under another origin than before: what was of it may no longer be."""
    if instance.store.origin != before:
        _logger.warning(
            "the origin is %s now: %s", instance.store.origin, instance.store.notice or "its branch has moved"
        )
        instance.look_again()


def _check_room(instance: Instance, needed: int) -> None:
    free = shutil.disk_usage(os.fspath(instance.home.root)).free
    least = LEAST_FREE_BYTES + ROOM_FACTOR * needed
    if free < least:
        raise StoreFull(
            f"{free >> 20} MiB are free for {instance.home.root}; {least >> 20} MiB are needed to take over more records",
            hint="free some space or quota, then sync again: it goes on where it stopped",
        )

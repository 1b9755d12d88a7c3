"""The calls of the API on peers: the instances that this one syncs with."""

from __future__ import annotations

from ..instance import Instance
from ..sync import peers
from ..sync.address import Address
from .call import JSON, Call


async def listing(instance: Instance, call: Call) -> JSON:
    """The peers."""
    return {"peers": await instance.writer.read(peers.listed)}


async def put(instance: Instance, call: Call) -> JSON:
    """Remember a peer, or change what is remembered of it."""
    body = call.body()
    if isinstance(body.get("address"), dict):
        Address.from_json(body["address"])
    answer: JSON = await instance.writer.write(lambda recorder: peers.put(recorder.transaction.connection, body))
    instance.syncs.look()
    return answer


async def remove(instance: Instance, call: Call) -> JSON:
    """Forget a peer."""
    await instance.writer.write(lambda recorder: peers.remove(recorder.transaction.connection, call.arguments[0]))
    instance.syncs.look()
    return {}


async def note(instance: Instance, call: Call) -> JSON:
    """Note what came of a sync with a peer."""
    name = call.arguments[0]
    answer: JSON = await instance.writer.write(
        lambda recorder: peers.note(recorder.transaction.connection, name, call.body())
    )
    instance.syncs.look()
    return answer

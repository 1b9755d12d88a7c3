"""The calls of the API on sites and what they compute on."""

from __future__ import annotations

import asyncio

from ..config import PILLARS
from ..errors import InvalidRecord, LoginRequired, LwfmError
from ..instance import Instance
from ..sites.base import Resource
from . import checks
from .call import JSON, Call, number_of

START_WAIT_S = 2.0
"""How long a list of sites waits for drivers that are being started."""


async def listing(instance: Instance, call: Call) -> JSON:
    """The sites."""
    found = await asyncio.gather(*(_described(instance, name) for name in instance.sites.current().names()))
    return {"sites": [_without_options(described) for described in found]}


async def get(instance: Instance, call: Call) -> JSON:
    """One site."""
    return await _described(instance, call.arguments[0])


async def _described(instance: Instance, name: str) -> JSON:
    """A site; a driver in a process of its own is started, and may still be about to when this is told."""
    sites = instance.sites.current()

    def start() -> None:
        try:
            sites.start(name)
        except LwfmError:
            pass  # is in the description

    await asyncio.wait([asyncio.ensure_future(asyncio.to_thread(start))], timeout=START_WAIT_S)
    return await asyncio.to_thread(instance.sites.describe, name)


async def check(instance: Instance, call: Call) -> JSON:
    """Try each pillar of a site."""
    body = call.body()
    pillars = body.get("pillars") or PILLARS
    if not isinstance(pillars, (list, tuple)) or not all(pillar in PILLARS for pillar in pillars):
        raise InvalidRecord(f"pillars must be a list of some of {', '.join(PILLARS)}")
    timeout_s = number_of(body, "timeout_s") or checks.TIMEOUT_S
    submission = body if body.get("run") else None
    return await checks.check_site(instance, call.arguments[0], pillars, timeout_s, submission)


async def login(instance: Instance, call: Call) -> JSON:
    """Log in, as far as the answers go."""
    name = call.arguments[0]
    answers = call.body().get("answers") or []
    if not isinstance(answers, list):
        raise InvalidRecord("answers must be a list")
    answers = list(answers)
    questions: list[JSON] = []
    auth = await instance.sites.pillar(name, "auth")

    def ask(prompt: str, secret: bool) -> str:
        if not answers:
            questions.append({"prompt": prompt, "secret": secret})
            raise LoginRequired(f"site {name!r} asks: {prompt}")
        return str(answers.pop(0))

    try:
        await instance.sites.call(name, auth.login, ask)
    except LoginRequired:
        if not questions:
            raise
        return {"name": name, "current": False, "questions": questions}
    current = await instance.sites.call(name, auth.is_auth_current)
    if current:
        instance.sites.polled.try_now(name)
    return {"name": name, "current": current, "questions": []}


async def resource_list(instance: Instance, call: Call) -> JSON:
    """What a site computes on."""
    name = call.arguments[0]
    found = await instance.sites.call(name, (await instance.sites.pillar(name, "spin")).list)
    return {"resources": [resource.to_json() for resource in found]}


async def resource_create(instance: Instance, call: Call) -> JSON:
    """Make a resource."""
    name, body = call.arguments[0], call.body()
    create = (await instance.sites.pillar(name, "spin")).create
    spec, _, place = body.get("spec") or {}, *name.partition("/")[1:]
    if place and isinstance(spec, dict):
        spec = {**spec, "site": place}
    made: Resource = await instance.sites.call(name, create, str(body.get("kind") or ""), spec)
    return made.to_json()


async def resource_destroy(instance: Instance, call: Call) -> JSON:
    """Give a resource back."""
    name, identifier = call.arguments
    await instance.sites.call(name, (await instance.sites.pillar(name, "spin")).destroy, identifier)
    return {}


def _without_options(described: JSON) -> JSON:
    return {key: value for key, value in described.items() if key != "options"}

"""The calls of the API on sites and what they compute on."""

from __future__ import annotations

from typing import Any

from ..errors import InvalidRecord, LoginRequired
from ..instance import Instance
from ..sites.base import Resource
from ..sites.registry import PILLARS
from . import checks
from .server import JSON, Call, number_of


async def site_list(instance: Instance, call: Call) -> JSON:
    """The sites."""
    return {"sites": [_without_options(instance.describe_site(name)) for name in instance.sites().names()]}


async def site_get(instance: Instance, call: Call) -> JSON:
    """One site."""
    return instance.describe_site(call.arguments[0])


async def site_check(instance: Instance, call: Call) -> JSON:
    """Try each pillar of a site."""
    body = call.body()
    pillars = body.get("pillars") or PILLARS
    if not isinstance(pillars, (list, tuple)) or not all(pillar in PILLARS for pillar in pillars):
        raise InvalidRecord(f"pillars must be a list of some of {', '.join(PILLARS)}")
    timeout_s = number_of(body, "timeout_s") or checks.TIMEOUT_S
    submission = body if body.get("run") else None
    return await checks.check_site(instance, call.arguments[0], pillars, timeout_s, submission)


async def site_login(instance: Instance, call: Call) -> JSON:
    """Log in, as far as the answers go."""
    name = call.arguments[0]
    answers = call.body().get("answers") or []
    if not isinstance(answers, list):
        raise InvalidRecord("answers must be a list")
    answers = list(answers)
    questions: list[JSON] = []
    auth = instance.sites().pillar(name, "auth")

    def ask(prompt: str, secret: bool) -> str:
        if not answers:
            questions.append({"prompt": prompt, "secret": secret})
            raise LoginRequired(f"site {name!r} asks: {prompt}")
        return str(answers.pop(0))

    try:
        await instance.call_site(name, auth.login, ask)
    except LoginRequired:
        if not questions:
            raise
        return {"name": name, "current": False, "questions": questions}
    current = await instance.call_site(name, auth.is_auth_current)
    if current:
        instance.polled.try_now(name)
    return {"name": name, "current": current, "questions": []}


async def resource_list(instance: Instance, call: Call) -> JSON:
    """What a site computes on."""
    name = call.arguments[0]
    found = await instance.call_site(name, instance.sites().pillar(name, "spin").list)
    return {"resources": [_resource(item) for item in found]}


async def resource_create(instance: Instance, call: Call) -> JSON:
    """Make a resource."""
    name, body = call.arguments[0], call.body()
    spin = instance.sites().pillar(name, "spin")
    return _resource(await instance.call_site(name, spin.create, str(body.get("kind") or ""), body.get("spec") or {}))


async def resource_destroy(instance: Instance, call: Call) -> JSON:
    """Give a resource back."""
    name, identifier = call.arguments
    await instance.call_site(name, instance.sites().pillar(name, "spin").destroy, identifier)
    return {}


def _resource(resource: Resource) -> JSON:
    facts: dict[str, Any] = dict(resource.facts)
    return {"resource_id": resource.resource_id, "kind": resource.kind, "state": resource.state, "facts": facts}


def _without_options(described: JSON) -> JSON:
    return {key: value for key, value in described.items() if key != "options"}

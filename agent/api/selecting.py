"""What a query means by what a person has typed: ids by their beginnings, instances by where they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from ..instance import Instance
from ..store import origins, queries
from .call import JSON, Call


async def job_meant(instance: Instance, call: Call) -> JSON:
    """The job whose id the path of a call begins, with all its details."""
    return await instance.writer.read(lambda c: queries.job_details(c, queries.resolve(c, "job", call.arguments[0])))


async def whole_id(instance: Instance, kind: str, given: Optional[str]) -> Optional[str]:
    """The id that ``given`` begins; None where nothing is given.

    Raises:
        NotFound: there is no such ``kind`` of record. InvalidRecord: there are several.
    """
    return await instance.writer.read(queries.resolve, kind, given) if given else None


async def origins_of(instance: Instance, call: Call) -> Sequence[str]:
    """The instances that ``origin`` in a query means; none where it is not there."""
    given = call.value("origin")
    return await instance.writer.read(origins.resolve, given) if given else ()

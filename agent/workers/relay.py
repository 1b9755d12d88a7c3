"""Calls of the API from other nodes: who has the key and speaks HTTP at the workers' port is passed on to the agent's socket."""

from __future__ import annotations

import asyncio
from pathlib import Path

READ_BYTES = 256 * 1024


def is_http(first: bytes) -> bool:
    """Whether somebody who begins so speaks HTTP: a frame begins with a small number."""
    return first[:1].isalpha()


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes, api: Path) -> None:
    """Carry bytes both ways until both ends have closed.

    Args:
        reader, writer: the caller. ``first``: what was read of it. ``api``: the socket of the API.
    """
    api_reader, api_writer = await asyncio.open_unix_connection(str(api))
    api_writer.write(first)
    try:
        await asyncio.wait(
            [asyncio.ensure_future(_copy(reader, api_writer)), asyncio.ensure_future(_copy(api_reader, writer))]
        )
    finally:
        api_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """All that comes, until its end, which is passed on."""
    try:
        while True:
            data = await reader.read(READ_BYTES)
            if not data:
                break
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()

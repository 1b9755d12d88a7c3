"""What the kernel tells of a process that has ended and is waited for. Kept free of imports: the keeper shall stay small."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import resource

_CLD_EXITED, _CLD_DUMPED = 1, 3
_RSS_BYTES = 1024
_BLOCK_BYTES = 512
"""The unit of ru_inblock and ru_oublock on Linux, whatever the disk's."""


def wait_status(code: int, status: int) -> int:
    """What waitid(2) says, as wait(2) says it."""
    if code == _CLD_EXITED:
        return status << 8
    return status | (0x80 if code == _CLD_DUMPED else 0)


def used(usage: resource.struct_rusage) -> tuple[float, int, int, int]:
    """What it used, by getrusage(2): seconds of processors, then bytes: the most memory, what it read, what it wrote."""
    memory, read, written = (
        usage.ru_maxrss * _RSS_BYTES,
        usage.ru_inblock * _BLOCK_BYTES,
        usage.ru_oublock * _BLOCK_BYTES,
    )
    return usage.ru_utime + usage.ru_stime, memory, read, written

"""A scheduler's commands with somebody in between: programs on PATH that do what the real ones do, unless a test wants otherwise.

::

    tools = Meddling(directory, path, "sbatch", "squeue")
    tools.want("squeue", "exit 1")       # from now on, in place of the real one
    tools.want("sbatch", '"$real" "$@" >/dev/null; kill -9 $$', times=1)
    tools.relent()
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

PROGRAM = """\
#!/bin/sh
real={real}
echo x >>{calls}
if [ -e {wish} ]; then
    wish=$(cat {wish})
    if [ -e {times} ]; then
        rm -f {times} {wish}
    fi
    eval "$wish"
    exit
fi
exec "$real" "$@"
"""


class Meddling:
    """Programs in a directory of their own.

    Args:
        directory: where; made here. ``path``: where the real ones are found. ``names``: which.
    """

    def __init__(self, directory: Path, path: str, *names: str) -> None:
        self.directory = directory
        self.names = names
        directory.mkdir()
        for name in names:
            real = shutil.which(name, path=path)
            assert real is not None, f"there is no {name}"
            text = PROGRAM.format(
                real=real, calls=self._of(name, "calls"), wish=self._of(name, "wish"), times=self._of(name, "once")
            )
            (directory / name).write_text(text)
            (directory / name).chmod(0o755)
        self.path = os.pathsep.join([str(directory), path])

    def want(self, name: str, line: str, *, once: bool = False) -> None:
        """Have this line of shell in place of the program; ``once``: the next time only. ``$real`` is the program."""
        if once:
            self._of(name, "once").touch()
        part = self._of(name, "part")
        part.write_text(line)
        part.rename(self._of(name, "wish"))

    def relent(self) -> None:
        """Have the real ones again."""
        for name in self.names:
            self._of(name, "wish").unlink(missing_ok=True)
            self._of(name, "once").unlink(missing_ok=True)

    def calls(self, name: str) -> int:
        """How often it was called so far."""
        path = self._of(name, "calls")
        return len(path.read_text().splitlines()) if path.exists() else 0

    def _of(self, name: str, kind: str) -> Path:
        return self.directory / f".{name}.{kind}"

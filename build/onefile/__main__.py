"""The first lines of lwfm.pyz: they run on any Python there is, also on one that is too old for all that follows."""

import os
import sys


def _newer():
    """A Python on PATH that will do, as a hint."""
    for minor in (13, 12, 11, 10, 14, 9):
        name = "python3.%d" % minor
        for directory in os.environ.get("PATH", "").split(os.pathsep):
            if directory and os.access(os.path.join(directory, name), os.X_OK):
                return "run it with " + name + ", which is on your PATH"
    return "load or install one (on a cluster: module avail python)"


if sys.version_info < (3, 9):
    sys.stderr.write(
        "lwfm: this is Python %d.%d (%s); lwfm.pyz needs CPython 3.9 to 3.14: %s\n"
        % (sys.version_info[0], sys.version_info[1], sys.executable, _newer())
    )
    sys.exit(2)

import lwfm_start  # noqa: E402

lwfm_start.main()

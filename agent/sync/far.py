"""The command line that starts lwfm on another host, whatever login shell it is given to, and what its failure means.

A login shell (sh, bash, zsh, csh, tcsh, fish) gets ``/bin/sh -c '...' lwfm WORD...``. The script holds no quote, backslash, newline
or ``!``, so that between single quotes all of these shells leave it as it is. Of the words, those with more than plain characters
are written in octal for ``printf %b`` and made whole by the script: no two of these shells agree on how else to quote them.

Sources: POSIX "Shell Command Language" and "printf"; csh(1), tcsh(1) "Lexical structure"; fish's "Quotes".
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Optional

from ..errors import LwfmError, NotFound
from .address import Address

NOT_FOUND = 93
NO_PYTHON = 94
_MARK = "lwfm-far: "
"""Begins the line that goes with these two exit codes, which other programs may use too."""

_PLAIN = frozenset(string.ascii_letters + string.digits + "_+:,./-")

PYTHONS = ("python3", *(f"python3.{minor}" for minor in range(14, 8, -1)), "python")
DIRECTORIES = ("", "$HOME/.local/bin/", "/usr/bin/", "/usr/local/bin/")
PLACES = (
    "${LWFM_HOME:-$HOME/.lwfm}/bin/lwfm",
    "$HOME/.lwfm/bin/lwfm",
    "$HOME/lwfm.pyz",
    "$HOME/bin/lwfm.pyz",
    "$HOME/.local/bin/lwfm.pyz",
    "./lwfm.pyz",
    "$(command -v lwfm.pyz)",
    "$(command -v lwfm)",
    "$HOME/.local/bin/lwfm",
)
"""Where lwfm is looked for, in this order."""

WHOLE_WORDS = 'n=$#; while [ $n -gt 0 ]; do v=$(printf %bx "$1"); shift; set -- "$@" "${v%x}"; n=$((n-1)); done; '
"""Makes the words that :func:`shell_line` wrote what they were."""

FIND_PYTHON = (
    "find_python() { "  # $1: the one to use, or empty; sets py, or is false
    'for p in ${1:+"$1"} ' + " ".join(PYTHONS) + "; do "
    "for d in " + " ".join(f'"{directory}"' for directory in DIRECTORIES) + "; do "
    'case "$p" in */*) py=$p;; *) py=$d$p;; esac; '
    '"$py" -I -S -c "import sys; sys.exit(sys.version_info < (3, 9))" </dev/null >/dev/null 2>&1 && return 0; '
    'case "$p" in */*) break;; esac; done; '
    '[ -z "$1" ] || break; done; '
    "py=; return 1; }; "
)

AT_HOME = 'at_home() { case "$1" in "~/"*) at=$HOME/${1#??};; *) at=$1;; esac; }; '
"""Sets ``at`` to a path whose ``~`` no shell has seen."""

_SCRIPT = (
    WHOLE_WORDS + FIND_PYTHON + AT_HOME + "cd; "
    'at_home "$1"; path=$at; at_home "$2"; python=$at; shift 2; found=; '
    'if [ -n "$path" ]; then '
    'case "$path" in */*) ;; *) [ -f "$path" ] || path=$(command -v "$path");; esac; '
    '[ -f "$path" ] && found=$path; '
    "else for c in " + " ".join(f'"{place}"' for place in PLACES) + "; do "
    '[ -f "$c" ] && found=$c && break; done; fi; '
    f'if [ -z "$found" ]; then echo "{_MARK}no lwfm here" >&2; exit {NOT_FOUND}; fi; '
    'case "$found" in */*) ;; *) found=./$found;; esac; '
    'if [ -z "$python" ] && [ -x "$found" ]; then case "$found" in *.pyz) ;; *) exec "$found" "$@";; esac; fi; '
    'if find_python "$python"; then exec "$py" "$found" "$@"; fi; '
    f'echo "{_MARK}no Python" >&2; exit {NO_PYTHON}'
)


def command_line(address: Address, words: Sequence[str]) -> str:
    """What to give to the login shell of ``address`` so that lwfm is run there with ``words``.

    It is run in the home directory; without ``remote_path``, it is the first of :data:`PLACES`; a ``.pyz`` is run by the first
    Python that is new enough.
    """
    home = ["--home", address.remote_home] if address.remote_home else []
    return shell_line(_SCRIPT, [address.remote_path or "", address.remote_python or "", *home, *words])


def shell_line(script: str, words: Sequence[str]) -> str:
    """A script with words, as one line for any login shell. The script begins with :data:`WHOLE_WORDS`.

    Args:
        script: for ``sh``, without single quote, backslash, newline and ``!``.
    """
    assert not set(script) & set("'\\\n!"), script
    return " ".join(["/bin/sh", "-c", f"'{script}'", "lwfm", *(_word(word) for word in words)])


def explain(exit_code: int, complaint: str, address: Address) -> Optional[LwfmError]:
    """What it means that the far side ended so; None where that is not told by this.

    Args:
        complaint: what it wrote to its standard error.
    """
    if _MARK not in complaint:
        return None
    if exit_code == NOT_FOUND:
        if address.remote_path:
            return NotFound(
                f"there is no lwfm at {address.remote_path} on {address}", hint=f"put it there: {_copy(address)}"
            )
        return NotFound(
            f"no lwfm found on {address}",
            hint=f"put it there: {_copy(address)}; or say where it is, with --remote-path",
        )
    if exit_code == NO_PYTHON:
        if address.remote_python:
            message = f"{address.remote_python} on {address} is no Python 3.9 or newer"
        else:
            message = f"no Python 3.9 or newer found on {address}"
        return NotFound(message, hint="name one with --remote-python; on a cluster `module avail python` lists them")
    return None


def _copy(address: Address) -> str:
    to = f" --to {address.remote_path}" if address.remote_path else ""
    return f"lwfm self copy {address}{to}"


def _word(text: str) -> str:
    """One word for any shell; in octal where it holds anything that one of them may read in its own way."""
    if text and _PLAIN.issuperset(text):
        return text
    return "'" + "".join(f"\\0{byte:03o}" for byte in text.encode("utf-8", "surrogateescape")) + "'"

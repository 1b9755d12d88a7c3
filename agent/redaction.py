"""Which environment variables a record keeps, and what in them is a secret. Pure."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence

REDACTED = "[redacted]"

_OF_THE_MACHINE = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_*", "TZ", "TMPDIR", "SCRATCH", "WORK",
    "LD_LIBRARY_PATH", "LIBRARY_PATH", "CPATH", "MANPATH", "PKG_CONFIG_PATH", "CMAKE_PREFIX_PATH",
    "PYTHONPATH", "PYTHONUNBUFFERED", "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "CONDA_EXE", "JULIA_*",
    "R_LIBS*", "JAVA_HOME", "MODULEPATH", "LOADEDMODULES", "_LMFILES_", "LMOD_*", "MODULESHOME", "SPACK_ROOT", "EB*ROOT*",
    "CUDA_HOME", "CUDA_PATH", "ROCM_PATH",
)  # fmt: skip
"""Where things are on a host, and in which language it speaks."""
_TAKEN_OVER = (
    *_OF_THE_MACHINE,
    "OMP_*", "KMP_*", "GOMP_*", "MKL_*", "OPENBLAS_*", "BLIS_*", "NUMEXPR_*",
    "OMPI_MCA_*", "UCX_*", "FI_*", "I_MPI_*", "MPICH_*", "LAMMPS_*", "GMX*",
)  # fmt: skip
_TAKEN_OVER_RE = re.compile("|".join(fnmatch.translate(pattern) for pattern in _TAKEN_OVER))
_STAYS_RE = re.compile("|".join(fnmatch.translate(pattern) for pattern in (*_OF_THE_MACHINE, "LWFM_*")))

_SECRET_NAME = re.compile(
    r"(?i)(pass(word|wd|phrase)?|secret|token|credential|api_?key|access_?key|private_?key|auth|cookie|session)(_|$|\d)|_pwd$|_key$"
)
_SECRET_VALUE = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}"
    r"|\b(AKIA|ASIA)[A-Z0-9]{16}\b|\bhf_[A-Za-z0-9]{20,}|\bsk-[\w-]{20,}|\bxox[abprs]-[\w-]{10,}"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}"
    r"|(?<=//hooks\.slack\.com/)[^\s'\"]{20,}|(?<=/api/webhooks/)[^\s'\"]{20,}|(?<=\.webhook\.office\.com/)[^\s'\"]{20,}"
)
_URL_PASSWORD = re.compile(r"(?<=://)([^\s:/@]+):([^\s@/]+)@")
_SECRET_OPTION = (
    r"--?(?:[\w-]+[-_])?(?:password|passwd|passphrase|token|secret|api[-_]?key|access[-_]?key|secret[-_]?key)"  # noqa: S105
)
_SECRET_WORD = (
    r"[A-Za-z_]*(?:pass(?:word|wd|phrase)|secret|token|credentials?|api_?key|access_?key|private_?key)(?:_\w*)?"  # noqa: S105
)
_SECRET_ARGUMENT = re.compile(
    rf"(?i)((?<![\w-]){_SECRET_OPTION}(?:=|\s+)|(?<![\w-]){_SECRET_WORD}=|authorization:\s*(?:(?:bearer|basic|token)\s+)?)"
    r"('[^']*'|\"[^\"]*\"|[^\s'\"]+)"
)
_HARMLESS = re.compile(r"[\w./]{0,14}")
"""A word that nothing here takes for a secret: too short for a key, no option, no assignment, no address. Most are such."""
_SECRET_OPTION_ALONE = re.compile(rf"(?i){_SECRET_OPTION}")
_SECRET_ASSIGNMENT = re.compile(rf"(?is)((?:{_SECRET_OPTION}|{_SECRET_WORD})=)(.+)")


def taken_over(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of a submitter's environment that its jobs get, and their records keep: an allow-list."""
    return {
        name: value
        for name, value in environment.items()
        if _TAKEN_OVER_RE.match(name) and not is_secret(name, value) and "\0" not in value
    }


def taken_along(environment: Mapping[str, str]) -> dict[str, str]:
    """Of the variables of a job those that mean the same on another host."""
    return {name: value for name, value in environment.items() if not _STAYS_RE.match(name)}


def is_secret(name: str, value: str) -> bool:
    """Whether a variable looks like a secret, by its name or by its value."""
    return bool(_SECRET_NAME.search(name) or _SECRET_VALUE.search(value) or _URL_PASSWORD.search(value))


def redact_environment(environment: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """``environment`` with its secrets blotted out, and the secrets by themselves."""
    secrets = {name: value for name, value in environment.items() if is_secret(name, value)}
    return {name: REDACTED if name in secrets else value for name, value in environment.items()}, secrets


def redact_words(words: Sequence[str]) -> list[str]:
    """A command's words with secrets blotted out, also those that follow their option as a word of their own."""
    redacted: list[str] = []
    secret_follows = False
    for word in words:
        if not secret_follows and _HARMLESS.fullmatch(word):
            redacted.append(word)
            continue
        assigned = _SECRET_ASSIGNMENT.fullmatch(word)
        if secret_follows:
            redacted.append(REDACTED)
        elif assigned:
            redacted.append(assigned.group(1) + REDACTED)
        else:
            redacted.append(redact_text(word))
        secret_follows = not secret_follows and bool(_SECRET_OPTION_ALONE.fullmatch(word))
    return redacted


def redact_text(text: str) -> str:
    """``text`` with what looks like a secret blotted out: keys, tokens, passwords in URLs and after options."""
    text = _SECRET_VALUE.sub(REDACTED, text)
    text = _URL_PASSWORD.sub(lambda found: f"{found.group(1)}:{REDACTED}@", text)
    return _SECRET_ARGUMENT.sub(lambda found: found.group(1) + REDACTED, text)

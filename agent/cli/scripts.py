"""How a user's script is run: with which Python, and with which environment it finds the library and the agent."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys

from .. import paths
from ..client.startup import COMMAND_VARIABLE, installed_paths, lwfm_command, package_parent
from ..errors import ConfigError, InvalidRecord, NotFound
from ..variables import SOCKET_VARIABLE
from .session import Session


def check_script(script: str) -> str:
    """``script``, when there is such a file that can be read.

    Raises:
        NotFound: there is none. ConfigError: it is a directory, or not readable.
    """
    if not os.path.lexists(script):
        raise NotFound(f"there is no script {script!r}", hint=f"this directory is {os.getcwd()}")
    if os.path.isdir(script):
        raise ConfigError(f"{script!r} is a directory, not a script", hint="name the file in it")
    try:
        with open(script, "rb"):
            return script
    except OSError as error:
        raise ConfigError(f"cannot read {script!r}: {error.strerror}", hint="see its owner and mode: ls -l") from error


def active_environment(python: str | None) -> str | None:
    """The virtual or conda environment of the caller, for the one file: it belongs to none itself. None when not asked for.

    An installed lwfm is in an environment already: its own.
    """
    if python or paths.running_archive() is None:
        return None
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        directory = os.environ.get(variable)
        if directory and os.access(os.path.join(directory, "bin", "python"), os.X_OK):
            return directory
    return None


def choose_python(python: str | None, venv: str | None) -> str:
    """The Python that ``--python`` or ``--venv`` names; ours when neither does.

    Raises:
        InvalidRecord: both are given. NotFound: there is none at that place.
    """
    if python and venv:
        raise InvalidRecord("--python and --venv cannot both be given")
    if venv:
        inside = os.path.join(os.path.abspath(os.path.expanduser(venv)), "bin", "python")
        if not os.access(inside, os.X_OK):
            raise NotFound(f"{venv!r} is not a virtual environment", hint=f"make one: python3 -m venv {venv}")
        version = _version_of(inside)
        if version and version < (3, 9):
            named = ".".join(map(str, version))
            raise ConfigError(
                f"{venv!r} is of Python {named}; lwfm needs 3.9 or newer", hint="make one with a newer Python"
            )
        return inside
    if python:
        found = shutil.which(os.path.expanduser(python))
        if not found:
            raise NotFound(f"there is no Python {python!r}", hint="give its path")
        return os.path.abspath(found)
    return sys.executable


def _version_of(python: str) -> tuple[int, ...]:
    """The version of a virtual environment's Python, as ``pyvenv.cfg`` tells; empty where there is none."""
    try:
        with open(os.path.join(os.path.dirname(os.path.dirname(python)), "pyvenv.cfg"), encoding="utf-8") as stream:
            told = dict(line.partition("=")[::2] for line in stream.read().replace(" ", "").splitlines())
        return tuple(int(number) for number in (told.get("version") or told.get("version_info") or "").split(".")[:2])
    except (OSError, ValueError):
        return ()


def script_environment(session: Session, python: str, venv: str | None) -> dict[str, str]:
    """Our environment, with the library importable and the instance named."""
    environment = dict(os.environ)
    endpoint = session.endpoint
    environment[paths.HOME_VARIABLE] = str(endpoint.home.root)
    environment[SOCKET_VARIABLE] = str(endpoint.socket)
    environment[COMMAND_VARIABLE] = json.dumps(lwfm_command())
    environment.setdefault("PYTHONUNBUFFERED", "1")
    directory = library_directory(endpoint.home, python)
    if directory:
        rest = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry and entry != directory]
        environment["PYTHONPATH"] = os.pathsep.join([directory, *rest])
    if venv:
        root = os.path.dirname(os.path.dirname(python))
        environment["VIRTUAL_ENV"] = root
        environment["PATH"] = os.path.dirname(python) + os.pathsep + environment.get("PATH", os.defpath)
        environment.pop("PYTHONHOME", None)
    return environment


def library_directory(home: paths.Home, python: str) -> str | None:
    """A directory that holds only ``lwfm``, so that a script sees the library and nothing else of ours.

    None where that Python finds it by itself. The library needs only the standard library.
    """
    parent = package_parent()
    if os.path.abspath(python) == os.path.abspath(sys.executable) and parent in installed_paths():
        return None
    if os.listdir(parent) == ["lwfm"]:
        return parent
    package = os.path.join(parent, "lwfm")
    directory = home.root / "library" / hashlib.sha256(os.fsencode(package)).hexdigest()[:12]
    link = directory / "lwfm"
    try:
        home.create()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not link.exists():
            temporary = directory / f".lwfm.{os.getpid()}"
            temporary.symlink_to(package)
            temporary.replace(link)
    except OSError:  # a file system without links
        return parent
    return str(directory)

"""Makes dist/lwfm.pyz: the whole of lwfm, with what it needs, in one file for every Python and processor it supports.

Data flows one way, each step a function: `fetch` gets the wheels of a target (a Python version and a processor) that the
lock names, `contents` reads their files, `partition` finds what targets have in common, `write_parts` makes one tar file
of each such part, `pack` has shiv make the archive of them and puts our start in front of shiv's. The same commit and the
same lock give the same bytes. Run it as ``./lwfm.sh build``; docs/decisions/0004-one-file.md tells why it is as it is.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.parser import HeaderParser
from pathlib import Path
from typing import NamedTuple

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "build" / "requirements.lock"
START = ROOT / "build" / "onefile"
FETCHED = ROOT / "build" / "cache"
OUTPUT = ROOT / "dist" / "lwfm.pyz"
ENTRY_POINT = "lwfm.__main__:main"
SHEBANG = "/usr/bin/env python3"

sys.path.insert(0, str(START))
from lwfm_start import GROUPS, MACHINES, PYTHONS  # noqa: E402 - where it is said what is supported

ZIP_EPOCH_S = 315532800  # 1980-01-01T00:00:00Z: a zip file knows no earlier time
ROOTS = {"worker": ("psutil",), "ssh": ("fabric",)}
"""Groups of packages that not every process needs, by the packages they are for; all others are the group ``base``."""
LEFT_OUT = {
    "pip": "sqlite-utils installs plugins with it",
    "pygments": "rich colours source code with it, which lwfm does not show",
    "markdown-it-py": "rich renders Markdown with it, which lwfm does not show",
    "mdurl": "belongs to markdown-it-py",
    "tzdata": "the system has time zones, and lwfm knows only UTC",
}
"""What the lock names but the archive does not need, and what it would be there for."""
UNWANTED_DIRECTORIES = ("tests", "test", "__pycache__")
UNWANTED_FILES = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")  # of a package's metadata
LEGACY_GLIBC = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
PLATFORMS = ("manylinux2014", "manylinux_2_17", "manylinux_2_24", "manylinux_2_28")
"""The C libraries that wheels may be for, preferred first: PEP 600. 2.28 is that of RHEL 8."""


class BuildError(Exception):
    """A step that failed, with the output of the program that did."""


class Target(NamedTuple):
    """An interpreter that the archive has parts for."""

    minor: int
    machine: str

    def __str__(self) -> str:
        return f"cp3{self.minor}-{self.machine}"

    def environment(self) -> dict[str, str]:
        """What environment markers (PEP 508) find there."""
        return {
            "implementation_name": "cpython", "implementation_version": f"3.{self.minor}.99", "os_name": "posix",
            "platform_machine": self.machine, "platform_python_implementation": "CPython", "platform_release": "",
            "platform_system": "Linux", "platform_version": "", "python_full_version": f"3.{self.minor}.99",
            "python_version": f"3.{self.minor}", "sys_platform": "linux", "extra": "",
        }  # fmt: skip


class File(NamedTuple):
    """A file of the archive: to which group it belongs, where it lies there, its content, and the oldest C library for it."""

    group: str
    path: str
    content: bytes
    glibc: tuple[int, ...]


class Part(NamedTuple):
    """What some targets have in common of one group."""

    name: str
    group: str
    targets: tuple[str, ...]
    files: tuple[File, ...]


TARGETS = tuple(Target(minor, machine) for minor in range(PYTHONS[0][1], PYTHONS[1][1] + 1) for machine in MACHINES)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the archive and say how large it is; exit code 0, or 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="lwfm.sh build", description="Make lwfm.pyz, the one-file lwfm.")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where to write it (default: dist/lwfm.pyz)")
    parser.add_argument("--parts", action="store_true", help="list what it holds, part by part")
    options = parser.parse_args(argv)
    output: Path = options.output.absolute()
    os.environ["SOURCE_DATE_EPOCH"] = str(source_date_s())
    try:
        with tempfile.TemporaryDirectory(prefix="lwfm-build-") as scratch, ThreadPoolExecutor(os.cpu_count()) as pool:
            ours = list(contents_of_ours())
            wheels = list(pool.map(fetch, TARGETS))
            trees = {target: [*ours, *contents(found)] for target, found in zip(TARGETS, wheels)}
            parts = partition(trees)
            described = write_parts(parts, Path(scratch))
            pack(Path(scratch), described, output)
    except (BuildError, OSError) as error:
        print(f"lwfm build: {error}", file=sys.stderr)
        return 1
    if options.parts:
        show(parts)
    content = output.read_bytes()
    print(f"{output}\n  size    {len(content) / 1e6:.2f} MB\n  sha256  {hashlib.sha256(content).hexdigest()}")
    return 0


def source_date_s() -> int:
    """The time all files in the archive get: $SOURCE_DATE_EPOCH, else that of the last commit, else a constant."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return max(int(given), ZIP_EPOCH_S)
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"], capture_output=True, text=True, check=True
        )
        return max(int(done.stdout), ZIP_EPOCH_S)
    except (OSError, subprocess.CalledProcessError, ValueError):
        return ZIP_EPOCH_S  # not a git checkout, or nothing committed yet


# ---------------------------------------------------------------------------------------------- what goes in


def locked(target: Target) -> Iterator[str]:
    """The lines of the lock that hold for `target`, without their conditions, as pip reads them."""
    for line in LOCK.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        requirement, _, hashes = line.partition("--hash")
        name, _, condition = requirement.partition(";")
        name = name.strip()
        if not name or name.startswith("#") or canonicalize_name(name.partition("==")[0]) in LEFT_OUT:
            continue
        if not condition.strip() or Marker(condition).evaluate(target.environment()):
            yield f"{name} --hash{hashes.partition('#')[0].rstrip()}"


def fetch(target: Target) -> list[Path]:
    """The wheels for `target`, checked against the lock's hashes; kept, so that the next build has them at once."""
    lines = list(locked(target))
    key = hashlib.sha256("\n".join([*PLATFORMS, *lines]).encode()).hexdigest()[:16]
    directory = FETCHED / f"{target}-{key}"
    if not directory.is_dir():
        FETCHED.mkdir(parents=True, exist_ok=True)
        for outdated in FETCHED.glob(f"{target}-*"):
            shutil.rmtree(outdated, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=FETCHED) as scratch:
            names = Path(scratch) / "requirements.txt"
            names.write_text("\n".join(lines) + "\n", encoding="utf-8")
            platforms = [word for name in PLATFORMS for word in ("--platform", f"{name}_{target.machine}")]
            python_m(
                *("pip", "download", "--no-deps", "--require-hashes", "--only-binary=:all:", "-r", str(names)),
                *("--implementation", "cp", "--python-version", f"3.{target.minor}.99", *platforms),
                *("--dest", str(Path(scratch) / "wheels")),
            )
            try:
                (Path(scratch) / "wheels").rename(directory)
            except OSError:  # another build has just done the same
                if not directory.is_dir():
                    raise
    wheels = sorted(directory.glob("*.whl"))
    check_hashes(wheels, lines)
    return wheels


def check_hashes(wheels: Iterable[Path], lines: Sequence[str]) -> None:
    """Make sure that every wheel is one that the lock names."""
    allowed = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", " ".join(lines)))
    for wheel in wheels:
        if hashlib.sha256(wheel.read_bytes()).hexdigest() not in allowed:
            raise BuildError(f"{wheel} is not what {LOCK.name} names; remove build/cache")


def contents_of_ours() -> Iterator[File]:
    """The package itself, as our own wheel has it."""
    with tempfile.TemporaryDirectory(prefix="lwfm-wheel-") as scratch:
        python_m("hatchling", "build", "--target", "wheel", "--directory", scratch)
        (wheel,) = Path(scratch).glob("*.whl")
        for path, content in files_of(wheel):
            if path.startswith("lwfm/"):
                yield File("lwfm", path, content, ())


def contents(wheels: Sequence[Path]) -> Iterator[File]:
    """The files of a target's wheels, each with the group it belongs to."""
    trees = {str(canonicalize_name(wheel.name.partition("-")[0])): dict(files_of(wheel)) for wheel in wheels}
    groups = group_packages({name: requirements(tree) for name, tree in trees.items()})
    for wheel in wheels:
        name = str(canonicalize_name(wheel.name.partition("-")[0]))
        for path, content in trees[name].items():
            yield File(groups[name], path, content, oldest_glibc(wheel) if is_compiled(path) else ())


def files_of(wheel: Path) -> Iterator[tuple[str, bytes]]:
    """The files that a wheel installs where Python looks for packages (PEP 427), without what the archive should not carry."""
    with zipfile.ZipFile(wheel) as source:
        for info in source.infolist():
            path = info.filename
            first, _, rest = path.partition("/")
            if first.endswith(".data"):  # scripts, headers and the like are not for us
                kind, _, path = rest.partition("/")
                if kind not in ("purelib", "platlib"):
                    continue
            words = path.split("/")
            if (
                info.is_dir()
                or set(UNWANTED_DIRECTORIES) & set(words[1:-1])
                or path.endswith((".pyc", ".pyi", ".h", ".c"))
            ):
                continue
            if first.endswith(".dist-info") and words[-1] in UNWANTED_FILES:
                continue
            yield path, source.read(info)


def is_compiled(path: str) -> bool:
    """Whether a file holds machine code."""
    return path.endswith(".so") or ".so." in path


def requirements(tree: Mapping[str, bytes]) -> list[Requirement]:
    """What a package says it needs."""
    for path, content in tree.items():
        if path.endswith(".dist-info/METADATA"):
            found = HeaderParser().parsestr(content.decode("utf-8", "replace")).get_all("Requires-Dist") or []
            return [Requirement(line) for line in found]
    return []


def group_packages(needs: Mapping[str, list[Requirement]]) -> dict[str, str]:
    """The group of each package: that of whom it is for; what several need is in the smallest of them, ``base`` before ``ssh``."""
    reached = {group: closure(roots, needs) for group, roots in ROOTS.items()}
    inside = set().union(*reached.values())
    others = closure([name for name in needs if name not in inside], needs)
    groups = {}
    for name in needs:
        if name in reached["worker"]:
            groups[name] = "worker"
        else:
            groups[name] = "ssh" if name in reached["ssh"] and name not in others else "base"
    return groups


def closure(roots: Iterable[str], needs: Mapping[str, list[Requirement]]) -> set[str]:
    """`roots`, and all that they need, as far as it is among the packages."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name in needs and name not in found:
            found.add(name)
            waiting += [
                str(canonicalize_name(needed.name)) for needed in needs[name] if "extra" not in str(needed.marker)
            ]
    return found


def oldest_glibc(wheel: Path) -> tuple[int, ...]:
    """The oldest C library that a wheel says it runs with; nothing for one without machine code."""
    versions = []
    for tag in parse_wheel_filename(wheel.name)[3]:
        found = re.match(r"manylinux_(\d+)_(\d+)_", tag.platform)
        legacy = LEGACY_GLIBC.get(tag.platform.partition("_")[0])
        if found or legacy:
            versions.append((int(found[1]), int(found[2])) if found else legacy)
    return min((version for version in versions if version), default=())


# ---------------------------------------------------------------------------------------------- what is common


def partition(trees: Mapping[Target, Sequence[File]]) -> list[Part]:
    """Every file once, with those that exactly the same targets have."""
    holders: dict[File, list[Target]] = {}
    for target, files in trees.items():
        seen: set[tuple[str, str]] = set()
        for file in files:
            if (file.group, file.path) in seen:
                raise BuildError(f"{target}: two packages have {file.path}")
            seen.add((file.group, file.path))
            holders.setdefault(file, []).append(target)
    sets: dict[tuple[str, tuple[Target, ...]], list[File]] = {}
    for file, targets in holders.items():
        sets.setdefault((file.group, tuple(targets)), []).append(file)
    return [
        Part(
            part_name(group, targets), group, tuple(map(str, targets)), tuple(sorted(files, key=lambda file: file.path))
        )
        for (group, targets), files in sorted(sets.items())
    ]


def part_name(group: str, targets: Sequence[Target]) -> str:
    """A name that tells for whom a part is, such as ``base-x86_64`` or ``ssh-cp39``."""
    minors = sorted({target.minor for target in targets})
    machines = sorted({target.machine for target in targets})
    if len(targets) != len(minors) * len(machines):
        raise BuildError(f"{group}: a part for {', '.join(map(str, targets))} has no name")
    words = [group]
    if len(minors) < len(TARGETS) // len(MACHINES):
        words.append("cp" + "+".join(f"3{minor}" for minor in minors))
    if len(machines) < len(MACHINES):
        words += machines
    return "-".join(words)


def write_parts(parts: Sequence[Part], directory: Path) -> bytes:
    """Write each part as a tar file into `directory`, and ``parts.json``; its content."""
    described = []
    for part in parts:
        packed = tar(part.files)
        (directory / f"{part.name}.tar").write_bytes(packed)
        described.append(
            {
                "name": part.name,
                "group": part.group,
                "targets": part.targets,
                "glibc": max((file.glibc for file in part.files), default=()),
                "files": len(part.files),
                "size_bytes": sum(len(file.content) for file in part.files),
                "sha256": hashlib.sha256(packed).hexdigest(),
            }
        )
    content = json.dumps({"format": 1, "version": version(), "parts": described}, indent=1).encode()
    (directory / "parts.json").write_bytes(content)
    for path in directory.iterdir():
        path.chmod(0o644)
    return content


def tar(files: Iterable[File]) -> bytes:
    """A tar file that is the same whoever makes it, and when."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for file in files:
            member = tarfile.TarInfo(file.path)
            member.size, member.mtime, member.mode = len(file.content), ZIP_EPOCH_S, 0o600
            archive.addfile(member, io.BytesIO(file.content))
    return target.getvalue()


def show(parts: Sequence[Part]) -> None:
    """List the parts."""
    for part in parts:
        size = sum(len(file.content) for file in part.files) / 1e6
        print(f"{part.name:<32} {len(part.files):>4} files {size:>7.2f} MB")


# ---------------------------------------------------------------------------------------------- the archive


def pack(directory: Path, described: bytes, output: Path) -> None:
    """Make the archive `output` of what is in `directory`; a reader of `output` never sees half of it."""
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        python_m(
            "shiv",
            *("--site-packages", str(directory)),
            *("--entry-point", ENTRY_POINT),
            *("--python", SHEBANG),
            *("--output-file", str(unfinished)),
            "--compressed",
            "--reproducible",
        )
        put_start_in_front(unfinished, start(described))
        unfinished.chmod(0o755)
        unfinished.replace(output)
    finally:
        if unfinished.exists():
            unfinished.unlink()


def start(described: bytes) -> dict[str, bytes]:
    """The modules that run first, by their names in the archive; the build's name in them is made from all it holds."""
    modules = {path.name: path.read_bytes() for path in START.glob("*.py")}
    modules["lwfm_filesystems.py"] = (ROOT / "agent" / "host" / "filesystems.py").read_bytes()
    digest = hashlib.sha256(described)
    for name in sorted(modules):
        digest.update(modules[name])
    build = base64.b32encode(digest.digest()[:10]).decode("ascii").lower()
    before = b'BUILD = VERSION = "@filled in by build/make_pyz.py@"'
    if before not in modules["lwfm_start.py"]:
        raise BuildError("lwfm_start.py has no place for the build's name")
    filled = f'BUILD, VERSION = "{build}", "{version()}"'.encode()
    modules["lwfm_start.py"] = modules["lwfm_start.py"].replace(before, filled)
    return modules


def put_start_in_front(archive: Path, modules: Mapping[str, bytes]) -> None:
    """Put our modules in, ``__main__.py`` in place of shiv's, and all entries in the order of their names."""
    with archive.open("rb") as stream:
        shebang = stream.readline()
    with zipfile.ZipFile(archive) as source:
        entries = {info.filename: (info, source.read(info)) for info in source.infolist()}
    (date_time,) = {info.date_time for info, _ in entries.values()}
    for name, content in modules.items():
        entries[name] = (zipfile.ZipInfo(name, date_time), content)
    with archive.open("wb") as stream:
        stream.write(shebang)
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as target:
            for name, (info, content) in sorted(entries.items()):
                if not name.startswith("site-packages/"):  # with the modes they have here, or none
                    info.external_attr = (stat.S_IFREG | 0o644) << 16
                info.compress_type = zipfile.ZIP_DEFLATED
                target.writestr(info, content)


def version() -> str:
    """The version of lwfm."""
    found = re.search(
        r'^__version__ = "(.+)"$', (ROOT / "agent" / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE
    )
    if not found:
        raise BuildError("agent/__init__.py has no __version__")
    return found[1]


def python_m(module: str, *arguments: str) -> None:
    """Run ``python -m module arguments`` in the checkout, silent unless it fails."""
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-m", module, *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BuildError(f"{module} ended with {done.returncode}:\n{done.stdout.rstrip()}")


assert {"lwfm", "base", *ROOTS} >= {name for names in GROUPS.values() for name in names}

if __name__ == "__main__":
    sys.exit(main())

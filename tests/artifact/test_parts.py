"""What the one file is made of: each part for whom it says, nothing that is not needed, the same bytes every time."""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.onefile import ROOT

pytestmark = pytest.mark.artifact
TARGETS = [f"cp3{minor}-{machine}" for minor in range(9, 15) for machine in ("x86_64", "aarch64")]
MACHINES = {62: "x86_64", 183: "aarch64"}
"""Of an ELF header (elf(5)): EM_X86_64, EM_AARCH64."""


class Part(NamedTuple):
    described: dict[str, Any]
    files: dict[str, bytes]


@lru_cache(maxsize=1)
def parts(archive: Path) -> list[Part]:
    with zipfile.ZipFile(archive) as source:
        listed = json.loads(source.read("site-packages/parts.json"))["parts"]
        return [Part(part, _files(source.read(f"site-packages/{part['name']}.tar"))) for part in listed]


def _files(packed: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def tree(archive: Path, target: str, group: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for part in parts(archive):
        if part.described["group"] == group and target in part.described["targets"]:
            assert not set(found) & set(part.files)
            found.update(part.files)
    return found


def compiled(archive: Path) -> Iterator[tuple[Part, str, bytes]]:
    for part in parts(archive):
        for path, content in part.files.items():
            if content.startswith(b"\x7fELF"):
                yield part, path, content


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_has_all_it_needs(archive: Path, target: str) -> None:
    packages = {
        "lwfm": ["lwfm/__main__.py", "lwfm/worker/main.py", "lwfm/py.typed"],
        "worker": ["psutil/__init__.py", "psutil/_psutil_linux.abi3.so"],
        "base": [
            "click/core.py",
            "rich/console.py",
            "sqlite_utils/db.py",
            "tornado/web.py",
            "tornado/speedups.abi3.so",
        ],
        "ssh": [
            "fabric/connection.py",
            "paramiko/client.py",
            "cryptography/hazmat/bindings/_rust.abi3.so",
            "nacl/_sodium.abi3.so",
        ],
    }
    for group, wanted in packages.items():
        assert set(wanted) <= set(tree(archive, target, group)), group
    ssh, machine = tree(archive, target, "ssh"), target.partition("-")[2]
    tag = f"cpython-{target[2:].partition('-')[0]}-{machine}-linux-gnu.so"
    assert f"_cffi_backend.{tag}" in ssh
    assert [path for path in ssh if path.startswith("wrapt/") and path.endswith(tag)]
    base = tree(archive, target, "base")
    assert ("sqlite_migrate/__init__.py" in base) is target.startswith("cp39-")
    assert ("tomli/__init__.py" in base) is (target.partition("-")[0] in ("cp39", "cp310"))


def test_every_shared_object_is_of_its_processor(archive: Path) -> None:
    seen = Counter()  # type: Counter[str]
    for part, path, content in compiled(archive):
        (machine,) = struct.unpack_from("<H", content, 18)
        seen[MACHINES[machine]] += 1
        assert {target.partition("-")[2] for target in part.described["targets"]} == {MACHINES[machine]}, path
        tagged = re.search(r"\.cpython-(\d+)-", path)
        if tagged:
            assert {target.partition("-")[0] for target in part.described["targets"]} == {f"cp{tagged[1]}"}, path
    assert seen["x86_64"] == seen["aarch64"] > 10


def test_no_shared_object_needs_a_newer_c_library_than_its_part_says(archive: Path) -> None:
    for part, path, content in compiled(archive):
        needed = max(
            (tuple(map(int, found.split(b"."))) for found in re.findall(rb"GLIBC_(\d+\.\d+)\b", content)), default=(0,)
        )
        assert needed <= tuple(part.described["glibc"]) <= (2, 28), (path, needed, part.described["glibc"])


def test_what_is_not_needed_is_left_out(archive: Path) -> None:
    for part in parts(archive):
        for path in part.files:
            words = path.split("/")
            assert not {"tests", "test", "__pycache__"} & set(words[:-1]), path
            assert words[0].partition("-")[0] not in {
                "pip",
                "pygments",
                "markdown_it",
                "tzdata",
                "colorama",
                "pytest",
            }, path
            assert not path.endswith((".pyc", ".pyi", ".c", ".h")), path
    assert {part.described["group"] for part in parts(archive)} == {"lwfm", "worker", "base", "ssh"}


def test_the_library_stands_by_itself(archive: Path) -> None:
    """A script that may import lwfm must not come to see our libraries with it."""
    assert {
        path.partition("/")[0] for part in parts(archive) if part.described["group"] == "lwfm" for path in part.files
    } == {"lwfm"}


def test_what_all_have_in_common_is_there_once(archive: Path) -> None:
    seen = Counter(
        (part.described["group"], path, hashlib.sha256(content).digest())
        for part in parts(archive)
        for path, content in part.files.items()
    )
    assert [key[:2] for key, count in seen.items() if count > 1] == []


def test_it_is_as_small_as_it_is_said_to_be(archive: Path) -> None:
    assert archive.stat().st_size < 40_000_000
    told = re.search(r"([\d.]+) MB", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert told, "README.md does not state the size"
    assert abs(float(told[1]) * 1e6 - archive.stat().st_size) < 1_500_000


def test_it_is_still_an_archive_of_shiv(archive: Path) -> None:
    with zipfile.ZipFile(archive) as source:
        names = set(source.namelist())
        environment = json.loads(source.read("environment.json"))
        assert {"_bootstrap/__init__.py", "__main__.py", "lwfm_start.py", "lwfm_unpack.py"} <= names
        assert environment["entry_point"] == "lwfm.__main__:main"
        assert {info.date_time for info in source.infolist()} == {source.infolist()[0].date_time}


def test_two_builds_give_the_same_bytes(archive: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.pyz"
    command = [sys.executable, str(ROOT / "build" / "make_pyz.py"), "--output", str(again)]
    subprocess.run(command, check=True, timeout=600, cwd="/", umask=0o077)
    assert again.read_bytes() == archive.read_bytes()

"""Makes dist/lwfm.pyz: the whole of lwfm, with what it needs, in one file that any Python here can run.

Three steps, each a function: `resolve` fetches the locked dependencies and builds our own wheel, `stage` lays
their files out as they will lie in the archive, `pack` makes the archive. The same commit and the same lock give
the same bytes. Run it as ``./lwfm.sh build``; it needs the packages of build/requirements-dev.lock.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "build" / "requirements.lock"
OUTPUT = ROOT / "dist" / "lwfm.pyz"
ENTRY_POINT = "lwfm.__main__:main"
SHEBANG = "/usr/bin/env python3"

ZIP_EPOCH_S = 315532800  # 1980-01-01T00:00:00Z: a zip file knows no earlier time
UNWANTED_DIRECTORIES = ("__pycache__", "bin")  # bytecode; console scripts, whose first line names this machine
UNWANTED_PACKAGES = ("pip", "setuptools", "_distutils_hack")
UNWANTED_SUBPACKAGES = ("test", "tests")  # directly below a package
UNWANTED_FILES = ("direct_url.json",)  # says where on this machine a wheel lay


class BuildError(Exception):
    """A step that failed, with the output of the program that did."""


def main(argv: Sequence[str] | None = None) -> int:
    """Make the archive and say how large it is; exit code 0, or 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="lwfm.sh build", description="Make lwfm.pyz, the one-file lwfm.")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where to write it (default: dist/lwfm.pyz)")
    output: Path = parser.parse_args(argv).output.absolute()

    os.environ["SOURCE_DATE_EPOCH"] = str(source_date_s())
    try:
        with tempfile.TemporaryDirectory(prefix="lwfm-build-") as scratch:
            wheels = resolve(LOCK, Path(scratch) / "wheels")
            site_packages = stage(wheels, Path(scratch) / "site-packages")
            pack(site_packages, output)
    except (BuildError, OSError) as error:
        print(f"lwfm build: {error}", file=sys.stderr)
        return 1
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


def resolve(lock: Path, wheels: Path) -> list[Path]:
    """Fetch what `lock` names, checked against its hashes, and build our own wheel; the wheels, sorted by name."""
    python_m("pip", "wheel", "--no-deps", "--require-hashes", "--wheel-dir", str(wheels), "-r", str(lock))
    python_m("hatchling", "build", "--target", "wheel", "--directory", str(wheels))
    return sorted(wheels.glob("*.whl"))


def stage(wheels: Sequence[Path], site_packages: Path) -> Path:
    """Unpack `wheels` into `site_packages`, without what the archive should not carry."""
    python_m(
        "pip", "install", "--no-deps", "--no-index", "--no-compile", "--target", str(site_packages), *map(str, wheels)
    )
    prune(site_packages)
    for metadata in site_packages.glob("*.dist-info"):
        forget_missing_files(metadata / "RECORD")
    for path in site_packages.rglob("*"):  # the modes are stored: the same whatever the umask
        path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
    return site_packages


def prune(site_packages: Path) -> None:
    """Remove bytecode, console scripts, installers, the dependencies' own tests and names of this machine."""
    doomed = [path for name in UNWANTED_DIRECTORIES for path in site_packages.rglob(name) if path.is_dir()]
    doomed += [site_packages / name for name in UNWANTED_PACKAGES]
    doomed += [path for name in UNWANTED_PACKAGES for path in site_packages.glob(f"{name}-*.dist-info")]
    doomed += [path for name in UNWANTED_SUBPACKAGES for path in site_packages.glob(f"*/{name}")]
    for path in doomed:
        shutil.rmtree(path, ignore_errors=True)
    for name in UNWANTED_FILES:
        for file in site_packages.glob(f"*.dist-info/{name}"):
            file.unlink()


def forget_missing_files(record: Path) -> None:
    """Drop the lines of `record` (a wheel's list of its files) whose files were pruned, and sort the rest."""
    base = record.parent.parent
    with record.open(newline="", encoding="utf-8") as stream:
        rows = sorted(row for row in csv.reader(stream) if (base / row[0]).is_file())
    with record.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)


def pack(site_packages: Path, output: Path) -> None:
    """Make the archive `output` of all below `site_packages`; a reader of `output` never sees half of it."""
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        python_m(
            "shiv",
            *("--site-packages", str(site_packages)),
            *("--entry-point", ENTRY_POINT),
            *("--python", SHEBANG),
            *("--output-file", str(unfinished)),
            "--compressed",
            "--reproducible",
        )
        sort_entries(unfinished)
        unfinished.chmod(0o755)
        unfinished.replace(output)
    finally:
        if unfinished.exists():
            unfinished.unlink()


def sort_entries(archive: Path) -> None:
    """Rewrite `archive` with its entries in order of name: shiv adds its own in the order its directory has them."""
    with archive.open("rb") as stream:
        shebang = stream.readline()
    with zipfile.ZipFile(archive) as source:
        entries = [(info, source.read(info)) for info in sorted(source.infolist(), key=lambda info: info.filename)]
    with archive.open("wb") as stream:
        stream.write(shebang)
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as target:
            for info, content in entries:
                if "/site-packages/" not in f"/{info.filename}":  # shiv's own, with the modes they have here
                    info.external_attr = (stat.S_IFREG | 0o644) << 16
                target.writestr(info, content)


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


if __name__ == "__main__":
    sys.exit(main())

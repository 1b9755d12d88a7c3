"""What it costs to start the one file: with an empty cache, with a full one, sixteen at once; what a worker unpacks.

With every Python found on this machine (see tests/support/pythons.py). Ends with 1 when a target is missed.

    python tests/bench/onefile.py [path of lwfm.pyz]
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "tests")]

from support.pythons import pythons, supported  # noqa: E402

ROUNDS = 11
COLD_TARGET_S = 2.5


def main() -> int:
    """Measure, print, judge."""
    archive = Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else ROOT / "dist" / "lwfm.pyz"
    if not archive.exists():
        subprocess.run([sys.executable, str(ROOT / "build" / "make_pyz.py")], check=True)
    print(f"  {archive.stat().st_size / 1e6:.1f} MB")
    names = {path: f"{major}.{minor}" for (major, minor), path in pythons().items()}
    met = [measure(archive, python, names[python]) for python in supported()]
    return 0 if all(met) else 1


def measure(archive: Path, python: str, name: str) -> bool:
    """All measurements with one Python; whether its targets are met."""
    with tempfile.TemporaryDirectory(prefix="lwfm-bench-") as directory:
        environment = {"HOME": directory, "PATH": os.environ.get("PATH", ""), "LWFM_CACHE": f"{directory}/cache"}

        def timed(*words: str) -> float:
            began = time.perf_counter()
            subprocess.run([python, *words], env=environment, check=True, stdout=subprocess.DEVNULL, cwd=directory)
            return time.perf_counter() - began

        def median_ms(*words: str) -> float:
            return statistics.median(timed(*words) for _ in range(ROUNDS)) * 1000

        bare = median_ms("-c", "pass")
        cold = []
        for _ in range(3):
            shutil.rmtree(f"{directory}/cache", ignore_errors=True)
            cold.append(timed(str(archive), "--help"))
        version, warm = median_ms(str(archive), "--version"), median_ms(str(archive), "--help")
        shutil.rmtree(f"{directory}/cache")
        began = time.perf_counter()
        command = [python, str(archive), "--help"]
        running = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in range(16)]
        failed = sum(process.wait() != 0 for process in running)
        sixteen = time.perf_counter() - began
        shutil.rmtree(f"{directory}/cache")
        subprocess.run(
            [python, str(archive), "worker", "--help"], env=environment, check=True, stdout=subprocess.DEVNULL
        )
        unpacked = [path for path in Path(f"{directory}/cache").rglob("*") if path.is_file() and path.suffix != ".pyc"]
        size = sum(path.stat().st_size for path in unpacked)
    limit = 2 * bare + 60
    met = statistics.median(cold) <= COLD_TARGET_S and version <= limit and not failed
    print(
        f"  Python {name}: bare {bare:.0f} ms; cold --help {statistics.median(cold):.2f} s (target {COLD_TARGET_S}); warm --version"
        f" {version:.0f} ms (target {limit:.0f}), --help {warm:.0f} ms; 16 cold at once {sixteen:.2f} s;"
        f" a worker unpacks {len(unpacked)} files, {size / 1e6:.2f} MB  {'ok' if met else 'MISSED'}",
        flush=True,
    )
    return met


if __name__ == "__main__":
    sys.exit(main())

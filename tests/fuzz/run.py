"""The coverage-guided fuzzer (atheris, libFuzzer) on the targets: ``./lwfm.sh fuzz [--minutes N] [TARGET…]``.

Each target gets its share of the time, in a process of its own, and begins with its corpus. What it finds is written to
``findings/`` beside this file with its traceback; when it is mended, the input belongs into the corpus, where the tests run it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
FINDINGS = HERE / "findings"
MAX_BYTES = 8192
MEMORY_MB = 2048
SLOW_S = 10
if str(HERE.parent) not in sys.path:
    sys.path.insert(0, str(HERE.parent))


def fuzz(name: str, arguments: list[str]) -> None:
    """Be the fuzzer of one target, or of ``all``, where the first byte says which. Ends the process."""
    import atheris

    with atheris.instrument_imports(include=["lwfm", "fuzz.targets"], enable_loader_override=False):
        from fuzz.targets import TARGETS

    every = list(TARGETS.values())

    def one_of_all(data: bytes) -> None:
        if data:
            every[data[0] % len(every)](data[1:])

    atheris.Setup([sys.argv[0], *arguments], one_of_all if name == "all" else TARGETS[name])
    atheris.Fuzz()


def run(name: str, seconds: int) -> bool:
    """Fuzz a target for so long in a process of its own; whether nothing was found."""
    from fuzz.targets import TARGETS, seeds

    FINDINGS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lwfm-fuzz-") as directory:
        corpus = Path(directory)
        for number, target in enumerate(TARGETS):
            if name in (target, "all"):
                first = bytes([number]) if name == "all" else b""
                for seed, data in seeds(target).items():
                    (corpus / f"{target}-{seed}").write_bytes(first + data)
        words = [sys.executable, str(Path(__file__).resolve()), "--be", name, str(corpus), f"-max_total_time={seconds}"]
        words += [f"-max_len={MAX_BYTES}", f"-rss_limit_mb={MEMORY_MB}", f"-timeout={SLOW_S}", "-print_final_stats=1"]
        words += [f"-artifact_prefix={FINDINGS}/{name}-", "-verbosity=1"]
        done = subprocess.run(words, capture_output=True, text=True, errors="replace")
    told = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith(("INFO:", "#", "0x"))]
    if done.returncode == 0:
        counts = [line.split()[-1] for line in told if line.startswith("stat::number_of_executed_units")]
        sys.stdout.write(f"{name:<12} {seconds} s, {counts[0] if counts else '?'} inputs: nothing found\n")
    else:
        sys.stdout.write(f"{name:<12} FOUND:\n" + "\n".join(told[-50:]) + "\n")
    sys.stdout.flush()
    return done.returncode == 0


def main() -> int:
    """Fuzz; 0 when nothing was found."""
    if sys.argv[1:2] == ["--be"]:
        fuzz(sys.argv[2], sys.argv[3:])
        return 0
    from fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(prog="lwfm.sh fuzz", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="in all, shared by the targets (default: 1)")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"which: {', '.join(TARGETS)} (default: each)")
    options = parser.parse_args()
    unknown = [name for name in options.targets if name not in (*TARGETS, "all")]
    if unknown:
        parser.error(f"there is no target {unknown[0]}")
    try:
        import atheris  # noqa: F401
    except ImportError:
        sys.stderr.write("lwfm: atheris is not installed: it has no build for this Python or machine\n")
        sys.stderr.write("      Use CPython 3.11 to 3.13 on x86_64 Linux for .venv (LWFM_PYTHON).\n")
        return 2
    names = options.targets or list(TARGETS)
    seconds = max(1, round(options.minutes * 60 / len(names)))
    found_nothing = [run(name, seconds) for name in names]
    return 0 if all(found_nothing) else 1


if __name__ == "__main__":
    sys.exit(main())

"""What a sync costs: two homes on this machine, a real sshd between them, beside scp and rsync of the same things in the same run.

    ./lwfm.sh bench sync                        a store of 100,000 jobs
    ./lwfm.sh bench sync --jobs 1000000 --copied   what little costs with a million that both have; kept in --dir, and used again
    ./lwfm.sh bench sync --transport openssh    over the user's ssh instead of the library

Ends with 1 when a target is missed. Machines are shared and noisy: read the ratios, and run it again when they surprise.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LINK = HERE.parents[1] / "build" / "link"
sys.path[:0] = [str(LINK), str(HERE.parent)]

from bench import million  # noqa: E402

from lwfm.store import Store  # noqa: E402

from support.ssh_server import Server, a_server  # noqa: E402

NEW_JOBS = 100
LARGE_BYTES = 1 << 30
SMALL_FILES, SMALL_BYTES = 2000, 4096
DELAY_MS = 1.0
"""Within one town; between continents it is a hundred times as much."""
ROUNDS = 3
PUT_ALL = """
import pathlib, sys
import lwfm
repo = lwfm.LwfManager().get_site("local").repo
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    repo.put(path, metadata={"size": "small"})
"""
_missed: list[str] = []


class Bench:
    """Two homes and the way between them.

    Args:
        root: of everything. ``server``: the sshd. ``transport``: how it is reached.
    """

    def __init__(self, root: Path, server: Server, transport: str, far: Path):
        self.near, self.far = root / "near", far
        self._server = server
        self.config = server.client_config
        """Of ssh: the way there."""
        self._transport = transport
        self.hidden: list[str] = []
        """Before the commands of the near side: so that it does not see the files of the far one."""
        self._program = root / "lwfm"
        words = f'exec env PYTHONPATH="{LINK}" "{sys.executable}" -m lwfm "$@"'
        self._program.write_text(f"#!/bin/sh\n{words}\n")
        self._program.chmod(0o755)

    def lwfm(self, home: Path, *words: str) -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LWFM_")}
        environment.update(PYTHONPATH=str(LINK), LWFM_HOME=str(home))
        command = [*(self.hidden if home == self.near else ()), sys.executable, "-m", "lwfm", *words]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}: exit code {done.returncode}")
        return done.stdout

    def sync(self, *words: str) -> tuple[dict[str, Any], float]:
        """One pull; what it says, and the seconds it took as a command, login and all."""
        began = time.perf_counter()
        way = ["-F", str(self.config), "--transport", self._transport]
        there = ["--remote-path", str(self._program), "--remote-home", str(self.far)]
        told = json.loads(self.lwfm(self.near, "sync", "pull", self._server.name, *way, *there, "--json", *words))
        return told, time.perf_counter() - began

    def scp(self, *words: str) -> float:
        return timed(["scp", "-q", "-F", str(self.config), *words])

    @property
    def host(self) -> str:
        return self._server.name

    @contextmanager
    def longer(self, delay_ms: float) -> Iterator[None]:
        """The way there gets longer: every piece comes so much later, either way."""
        words = [sys.executable, str(HERE / "slow_line.py"), str(self._server.port), str(delay_ms)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as line:
            assert line.stdout is not None
            here, there = line.stdout.readline().strip(), str(self._server.port)
            self.config = self._server.directory / "config-longer"
            self.config.write_text(self._server.client_config.read_text().replace(there, here))
            known = self._server.known_hosts.read_text()
            self._server.known_hosts.write_text(known + known.replace(there, here))
            try:
                yield
            finally:
                self.config = self._server.client_config
                line.terminate()


def timed(words: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(words, check=True)
    return time.perf_counter() - began


def report(what: str, value: float, unit: str, target: str = "", met: bool = True) -> None:
    aim = f"target {target:<10} {'ok' if met else 'MISSED'}" if target else ""
    print(f"{what:<66} {value:>10.2f} {unit:<7} {aim}".rstrip(), flush=True)
    if not met:
        _missed.append(what)


def put_aside(directory: Path) -> None:
    """Make room for the next round. Removed at the end: ext4 is slow to make files while many have just been removed."""
    if directory.exists():
        directory.rename(tempfile.mkdtemp(prefix="aside-", dir=directory.parent))


def best(run: Callable[[], float]) -> float:
    return min(run() for _ in range(ROUNDS))


def first(bench: Bench, jobs: int) -> None:
    """The first pull of everything."""
    bench.lwfm(bench.far, "agent", "start")
    told, seconds = bench.sync()
    rows = told["rows_received"]
    report(f"first pull of {jobs} jobs: records a second", rows / told["seconds"], "rows/s")
    report("  bytes a job, over the line", told["bytes"] / jobs, "B")
    report("  seconds, as a command", seconds, "s")
    bench.lwfm(bench.far, "agent", "stop")
    database = bench.far / "thread.db"
    report("  the database file itself, bytes a job", database.stat().st_size / jobs, "B")
    copy = bench.near.parent / "copy.db"
    report("  scp of the database file (no merge, no check)", bench.scp(f"{bench.host}:{database}", str(copy)), "s")
    copy.unlink()
    if shutil.which("rsync"):
        ssh = f"ssh -F {bench.config}"
        report("  rsync -z of the same", timed(["rsync", "-z", "-e", ssh, f"{bench.host}:{database}", str(copy)]), "s")
        copy.unlink()


def later(bench: Bench, jobs: int) -> None:
    """Nothing new, then a little."""
    bench.lwfm(bench.far, "agent", "start")
    bench.sync()
    bare = min(timed(["ssh", "-F", str(bench.config), bench.host, "true"]) for _ in range(ROUNDS))
    quiet = [bench.sync() for _ in range(ROUNDS)]
    most = max(max(told["bytes_sent"], told["bytes_received"]) for told, _ in quiet)
    assert not any(told["rows_sent"] or told["rows_received"] for told, _ in quiet)
    report("nothing new: bytes, the larger way", most, "B", "<= 1024", most <= 1024)
    report("  seconds behind the login", min(told["seconds"] for told, _ in quiet), "s")
    report("  seconds as a command; ssh HOST true alone takes", min(seconds for _, seconds in quiet), "s")
    report("                                              ", bare, "s")
    bench.lwfm(bench.far, "submit", "--array", f"1-{NEW_JOBS}", "--wait", "--", "echo", "{}")
    told, _ = bench.sync()
    report(f"{NEW_JOBS} new jobs in a store of {jobs}: records", told["rows_received"], "rows")
    report("  bytes a job", told["bytes_received"] / NEW_JOBS, "B")
    report("  seconds behind the login", told["seconds"], "s")


def data(bench: Bench, root: Path) -> None:
    """One large file, and many small ones, beside scp. Needs to be root: else both sides would see the same files."""
    source = root / "source"
    source.mkdir()
    large = source / "large.bin"
    with large.open("wb") as file:
        for _ in range(LARGE_BYTES >> 20):
            file.write(os.urandom(1 << 20))
    bench.lwfm(bench.far, "put", str(large), "--meta", "size=large")
    many = source / "many"
    many.mkdir()
    for number in range(SMALL_FILES):
        (many / f"{number:04d}.dat").write_bytes(os.urandom(SMALL_BYTES))
    script = root / "put.py"
    script.write_text(PUT_ALL)
    bench.lwfm(bench.far, "python", str(script), str(many))
    bench.lwfm(bench.near, "agent", "stop")
    hiding = f'mount -t tmpfs none "{source}" && exec "$@"'
    bench.hidden = ["unshare", "--mount", "--propagation", "private", "sh", "-c", hiding, "sh"]
    bench.sync()

    def pulled(what: str) -> float:
        """Seconds for the data alone: the records are here."""
        put_aside(bench.near / "contents")
        told, _ = bench.sync("--data", f"size={what}")
        assert told["data"]["pulled"]["files"] == (1 if what == "large" else SMALL_FILES), told["data"]
        return float(told["seconds"])

    target = root / "target"

    def copied(*words: str) -> float:
        put_aside(target)
        target.mkdir()
        return bench.scp(*words, str(target))

    ours, theirs = best(lambda: pulled("large")), best(lambda: copied(f"{bench.host}:{large}"))
    report("one file of 1 GiB: MB/s, verified", LARGE_BYTES / ours / 1e6, "MB/s")
    report("  scp, not verified", LARGE_BYTES / theirs / 1e6, "MB/s")
    report("  ratio", theirs / ours, "", ">= 0.8", theirs / ours >= 0.8)
    ours, theirs = best(lambda: pulled("small")), best(lambda: copied("-r", f"{bench.host}:{many}"))
    report(f"{SMALL_FILES} files of {SMALL_BYTES} bytes: files/s, verified, on the disk", SMALL_FILES / ours, "/s")
    report("  scp -r, not verified, not on the disk", SMALL_FILES / theirs, "/s")
    report("  ratio", theirs / ours, "", ">= 3", theirs / ours >= 3)
    with bench.longer(DELAY_MS):
        ours, theirs = best(lambda: pulled("small")), best(lambda: copied("-r", f"{bench.host}:{many}"))
    report(f"the same over a line of {DELAY_MS} ms each way: files/s", SMALL_FILES / ours, "/s")
    report("  scp -r", SMALL_FILES / theirs, "/s")
    report("  ratio", theirs / ours, "", ">= 3", theirs / ours >= 3)


def main() -> int:
    parser = argparse.ArgumentParser(prog="./lwfm.sh bench sync", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--dir", type=Path, help="where the store is made, and found again")
    parser.add_argument("--transport", choices=("fabric", "openssh"), default="fabric")
    parser.add_argument("--copied", action="store_true", help="both sides begin with the store: no first pull")
    parser.add_argument("--only", choices=("records", "data"))
    options = parser.parse_args()
    kept = options.dir or Path(tempfile.gettempdir()) / f"lwfm-bench-{options.jobs}"
    with tempfile.TemporaryDirectory(prefix="lwfm-bench-sync-") as made:
        root = Path(made)
        store, far = kept / "thread.db", root / "far"
        far.mkdir(mode=0o700)
        if options.only != "data":
            if not store.exists():
                kept.mkdir(exist_ok=True)
                million.make(kept, options.jobs)
            shutil.copyfile(store, far / "thread.db")
            Store.open(far / "thread.db", host="far", user="ada", home=str(far)).close()
        with a_server(root / "ssh") as server:
            bench = Bench(root, server, options.transport, far)
            try:
                if options.only != "data":
                    if options.copied:
                        bench.near.mkdir(mode=0o700)
                        shutil.copyfile(store, bench.near / "thread.db")
                        Store.open(bench.near / "thread.db", host="near", user="ada", home=str(bench.near)).close()
                    else:
                        first(bench, options.jobs)
                    later(bench, options.jobs)
                if options.only != "records":
                    data(bench, root)
            finally:
                for home in (bench.near, bench.far):
                    bench.lwfm(home, "agent", "stop")
    for what in _missed:
        print(f"MISSED: {what.strip()}")
    return 1 if _missed else 0


if __name__ == "__main__":
    sys.exit(main())

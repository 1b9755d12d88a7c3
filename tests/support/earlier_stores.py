"""Stores that earlier releases have written, as text: how they were made, and made files again.

``tests/unit/stores/schema-N.sql`` was written by the last commit that had schema N, run as it was: its agent, its command line and
real jobs. ``python tests/support/earlier_stores.py COMMIT FILE`` makes one, as root, with the ``.venv`` of a checkout.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

STORES = Path(__file__).resolve().parents[1] / "unit" / "stores"
_TEXT_INDEX = "search"


def versions() -> list[int]:
    """The schemas of which there is a store."""
    return sorted(int(path.stem.rpartition("-")[2]) for path in STORES.glob("schema-*.sql"))


def make(version: int, database: Path) -> None:
    """The store of a schema, as a file."""
    connection = sqlite3.connect(database, isolation_level=None)
    connection.executescript((STORES / f"schema-{version}.sql").read_text(encoding="utf-8"))
    connection.close()
    database.chmod(0o600)


def dump(database: Path) -> Iterator[str]:
    """A store as statements. The tables in which the text index keeps its words are left out: it makes them itself."""
    connection = sqlite3.connect(database)
    (version,) = connection.execute("pragma user_version").fetchone()
    schema = connection.execute(
        "select type, name, sql from sqlite_master where sql is not null and name not like 'sqlite_%' order by type = 'view', rowid"
    ).fetchall()
    own = [(kind, name, sql) for kind, name, sql in schema if not name.startswith(f"{_TEXT_INDEX}_")]
    yield "begin;"
    for _, _, sql in own:
        yield f"{sql};"
    for kind, name, _ in own:
        if kind == "table":
            columns = [row[1] for row in connection.execute(f"pragma table_info({name})")]
            quoted = " || ', ' || ".join(f'quote("{column}")' for column in columns)
            for (values,) in connection.execute(f"select {quoted} from {name} order by 1"):
                yield f"insert into {name} ({', '.join(columns)}) values ({values});"
    yield f"pragma user_version = {version};"
    yield "commit;"
    connection.close()


def _lwfm(link: Path, home: Path, *words: str) -> str:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(link), "LWFM_HOME": str(home)}
    named = ["unshare", "--uts", "sh", "-c", 'hostname node1; exec "$@"', "sh"]
    command = [*named, sys.executable, "-m", "lwfm", *words]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        sys.stderr.write(f"{words}: {done.stdout}{done.stderr}\n")
    return done.stdout.strip()


def _live(link: Path, home: Path) -> None:
    """Some of what users do."""
    flow = _lwfm(link, home, "workflow", "create", "study", "--meta", "who=ada").split()[-1]
    good = _lwfm(link, home, "submit", "--workflow", flow, "--name", "good", "--meta", "T=0.7", "--", "echo", "hello")
    bad = _lwfm(
        link,
        home,
        "submit",
        "--workflow",
        flow,
        "--name",
        "bad",
        "--retries",
        "1",
        "--",
        "sh",
        "-c",
        "echo no >&2; exit 3",
    )
    _lwfm(link, home, "on", "job", good, "--workflow", flow, "--", "echo", "after")
    (home / "out.dat").write_text("1 2 3\n")
    _lwfm(link, home, "on", "data", "kind=thermo", "--", "echo", "data")
    _lwfm(link, home, "put", "out.dat", "--meta", "kind=thermo", "--meta", "T=0.7", "--workflow", flow)
    _lwfm(link, home, "on", "data", "kind=never", "--cwd", "/", "--", "echo", "never")
    _lwfm(link, home, "log", "a line", "--job", bad)
    for job in (good, bad):
        _lwfm(link, home, "job", "wait", job)
    time.sleep(2)
    sys.stderr.write(_lwfm(link, home, "job", "list") + "\n")
    _lwfm(link, home, "agent", "stop")
    time.sleep(2)


def _main(commit: str, target: str) -> None:
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryDirectory(prefix="ada-") as homes:
        archive = subprocess.run(["git", "archive", commit, "agent"], stdout=subprocess.PIPE, check=True).stdout
        subprocess.run(["tar", "-x", "-C", place], input=archive, check=True)
        link, home = Path(place) / "link", Path(homes) / ".lwfm"
        link.mkdir()
        home.mkdir(mode=0o700)
        (link / "lwfm").symlink_to(Path(place) / "agent")
        _live(link, home)
        text = "\n".join(dump(home / "thread.db")) + "\n"
        assert os.uname().nodename not in text, "nothing of this machine is to be in it"
        Path(target).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    _main(*sys.argv[1:])

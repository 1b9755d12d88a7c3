"""A plain REST service that runs jobs and keeps files: what the driver beside it speaks to. Standard library alone.

    python service.py USER PASSWORD [PORT]      prints its address, serves until it is ended

It listens on this host only, and whoever logs in may run anything as the one who started it. It keeps its jobs in memory.
"""

import hashlib
import hmac
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

LOCK, TOKENS, JOBS = threading.Lock(), set(), {}  # jobs by their keys, oldest first
PLACE = Path(tempfile.mkdtemp(prefix="rest-service-"))


class Job:
    """A job: ``asked`` as it was posted."""

    def __init__(self, number, asked):
        self.asked, self.state, self.code, self.why = asked, "queued", None, ""
        self.number, self.process, self.cancelled = number, None, threading.Event()
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        asked = self.asked
        try:
            with self.file("stdout").open("wb") as out, self.file("stderr").open("wb") as err, LOCK:
                if not self.cancelled.is_set():
                    self.process = subprocess.Popen(
                        asked["command"], cwd=asked["cwd"], env=asked["env"], stdin=subprocess.DEVNULL,
                        stdout=out, stderr=err, start_new_session=True,
                    )  # fmt: skip
                    self.state = "running"
            if self.process is not None:
                self.process.wait(asked.get("limit_s"))
        except OSError as error:
            self.why = str(error)
        except subprocess.TimeoutExpired:
            self.why = f"took longer than {asked['limit_s']} s"
            self.stop()
        self.code = self.process.wait() if self.process else None
        self.state = "cancelled" if self.cancelled.is_set() else "ended"

    def cancel(self):
        with LOCK:
            if self.state not in ("queued", "running"):
                return
            self.cancelled.set()
        if self.process is not None:
            threading.Thread(target=self.stop, daemon=True).start()

    def stop(self):
        self.kill(signal.SIGTERM)
        try:
            self.process.wait(self.asked["grace_s"])
        except subprocess.TimeoutExpired:
            pass
        self.kill(signal.SIGKILL)

    def kill(self, number):
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass

    def file(self, stream):
        return PLACE / f"{self.number}.{stream}"

    def shown(self):
        told = {"id": self.number, "key": self.asked["key"], "name": self.asked["name"]}
        return {**told, "state": self.state, "exit_code": self.code, "why": self.why}


class Handler(BaseHTTPRequestHandler):
    """The API; see the table in docs/site-authors.md."""

    def answer(self, status, value=None, content=b"", kind="application/json"):
        content = content if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def posted(self):
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def handle_any(self):
        parts = urlsplit(self.path)
        first, _, rest = unquote(parts.path, errors="surrogateescape").lstrip("/").partition("/")
        try:
            if (self.command, first) == ("POST", "login"):
                return self.login()
            if self.headers.get("Authorization", "").removeprefix("Bearer ") not in TOKENS:
                return self.answer(401, {"error": "log in first"})
            serve = getattr(self, f"{self.command}_{first}".lower(), None)
            return serve(rest, parse_qs(parts.query)) if serve else self.answer(404, {"error": "no such thing"})
        except (KeyError, FileNotFoundError) as error:
            return self.answer(404, {"error": f"there is no {error}"})
        except (OSError, ValueError) as error:
            return self.answer(400, {"error": str(error)})

    do_GET = do_POST = do_PUT = do_DELETE = handle_any

    def login(self):
        told = self.posted()
        if not hmac.compare_digest(json.dumps([told["user"], told["password"]]), json.dumps(sys.argv[1:3])):
            return self.answer(401, {"error": "wrong user or password"})
        TOKENS.add(token := secrets.token_hex())
        return self.answer(200, {"token": token})

    def get_me(self, rest, query):
        self.answer(200, {"user": sys.argv[1], "home": str(PLACE / "home")})

    def get_nodes(self, rest, query):
        self.answer(200, [{"name": os.uname().nodename, "cores": os.cpu_count()}])

    def post_jobs(self, rest, query):
        """A list of jobs; one whose key is known is not run again."""
        asked = self.posted()
        with LOCK:
            for job in asked:
                if job["key"] not in JOBS:
                    JOBS[job["key"]] = Job(len(JOBS) + 1, job)
        self.answer(200, [JOBS[job["key"]].shown() for job in asked])

    def post_query(self, rest, query):
        """The latest job of each of these names."""
        with LOCK:
            latest = {job.asked["name"]: job for job in JOBS.values()}
        self.answer(200, [latest[name].shown() for name in self.posted() if name in latest])

    def delete_jobs(self, rest, query):
        JOBS[rest].cancel()
        self.answer(200, {})

    def get_output(self, rest, query):
        key, _, stream = rest.rpartition("/")
        with JOBS[key].file(stream).open("rb") as file:
            file.seek(int(query["offset"][0]))
            self.answer(200, None, file.read(int(query["limit"][0])), "application/octet-stream")

    def put_files(self, rest, query):
        path = Path("/" + rest)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        left, digest = int(self.headers["Content-Length"]), hashlib.sha256()
        with part.open("wb") as file:
            while left and (piece := self.rfile.read(min(left, 1 << 20))):
                file.write(piece)
                digest.update(piece)
                left -= len(piece)
        part.replace(path)
        self.answer(200, {"size_bytes": path.stat().st_size, "sha256": digest.hexdigest()})

    def get_files(self, rest, query):
        path = Path("/" + rest)
        if path.is_dir():
            return self.answer(200, sorted(item.name for item in path.iterdir()), kind="application/x-directory")
        return self.answer(200, None, path.read_bytes(), "application/octet-stream")

    def delete_files(self, rest, query):
        path = Path("/" + rest)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.answer(200, {})

    def log_message(self, *words):
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[3]) if len(sys.argv) > 3 else 0), Handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    try:
        server.serve_forever()
    finally:
        for job in list(JOBS.values()):
            if job.process is not None:
                job.kill(signal.SIGKILL)
        shutil.rmtree(PLACE, ignore_errors=True)

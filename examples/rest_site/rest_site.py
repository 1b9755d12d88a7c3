"""A driver for the REST service beside it: all four pillars. docs/site-authors.md builds it step by step."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
from urllib.parse import quote, urlsplit

from lwfm.errors import ConfigError, LoginRequired, NotFound, ResourcesImpossible, SiteError
from lwfm.sites.base import Auth, Observation, Repo, Resource, Run, SiteDriver, Spin, StoredData
from lwfm.states import JobState

TIMEOUT_S = 30.0


class RestSite(SiteDriver):
    """Options: ``url``, the service; ``cores``, the most that a job may ask for (default: 4)."""

    own_process = True

    def __init__(self, context):
        super().__init__(context)
        url = context.options.get("url")
        if not isinstance(url, str) or not url.startswith("http://"):
            raise ConfigError(f"[{context.name}]: url must be http://HOST:PORT, not {url!r}")
        service = Service(url, context.home / "sites" / f"{context.name}.token")
        self.auth, self.repo, self.spin = RestAuth(service), RestRepo(service), RestSpin(service)
        self.run = RestRun(service, context.options.get("cores", 4))


class Service:
    """The service, as it is called: a connection for each call, so that any thread may."""

    def __init__(self, url, token_file):
        self.host, self.token_file = urlsplit(url).netloc, token_file

    def open(self, method, path, body=None, query=""):
        """The answer to one call, its body still to be read."""
        token = self.token_file.read_text() if self.token_file.exists() else ""
        headers = {"Authorization": f"Bearer {token}"}
        if hasattr(body, "fileno"):  # a file is sent piece by piece
            headers["Content-Length"] = str(os.fstat(body.fileno()).st_size)
        connection = http.client.HTTPConnection(self.host, timeout=TIMEOUT_S)
        try:
            connection.request(method, quote(os.fsencode(path)) + query, body, headers)
            answer = connection.getresponse()
            if answer.status < 400:
                return answer
            said = json.loads(answer.read())["error"]
        except (OSError, http.client.HTTPException) as error:
            raise SiteError(f"{self.host} does not answer: {error}", transient=True) from error
        kind = {401: LoginRequired, 404: NotFound}.get(answer.status, SiteError)
        raise kind(f"{self.host}: {said}")

    def ask(self, method, path, value=None):
        """The JSON that answers a call."""
        return json.loads(self.open(method, path, None if value is None else json.dumps(value)).read())


class RestAuth(Auth):
    def __init__(self, service):
        self.service = service

    def login(self, ask):
        told = {"user": ask("User", False), "password": ask("Password", True)}
        token = self.service.ask("POST", "/login", told)["token"]
        self.service.token_file.parent.mkdir(mode=0o700, exist_ok=True)
        self.service.token_file.touch(mode=0o600)
        self.service.token_file.write_text(token)

    def is_auth_current(self):
        try:
            return bool(self.service.ask("GET", "/me"))
        except LoginRequired:
            return False


class RestRun(Run):
    def __init__(self, service, cores):
        self.service, self.cores = service, cores

    def check(self, defn):
        cores = defn.resources.cores or 1
        if cores > self.cores:
            raise ResourcesImpossible(f"{cores} cores are asked for; this site gives at most {self.cores}")

    def submit(self, requests):
        jobs = self.service.ask("POST", "/jobs", [self._asked(request) for request in requests])
        return {job["name"]: observed(job) for job in jobs}

    def _asked(self, request):
        defn = request.defn
        return {
            "key": f"{request.job_id}.{request.attempt}",  # the service runs a key once, however often it is posted
            "name": request.job_id,  # by which we ask for it
            "command": ["/bin/sh", "-c", defn.command] if isinstance(defn.command, str) else list(defn.command),
            "cwd": defn.cwd or "/",
            "env": {**request.environment, **defn.env, **request.variables},
            "limit_s": defn.resources.time_limit_s,
            "grace_s": defn.grace_s,
        }

    def status(self, job_ids):
        return {job["name"]: observed(job) for job in self.service.ask("POST", "/query", list(job_ids))}

    def cancel(self, job_id, attempt, reason):
        try:
            self.service.ask("DELETE", f"/jobs/{job_id}.{attempt}")
        except NotFound:
            pass  # it never came there

    def output(self, job_id, stream, offset, limit):
        for job in self.service.ask("POST", "/query", [job_id]):
            query = f"?offset={offset}&limit={limit}"
            return self.service.open("GET", f"/output/{job['key']}/{stream}", query=query).read()
        return b""


def observed(job):
    """What the service says of a job, in lwfm's words; its own beside them."""
    state, reason, code = JobState.UNKNOWN, job["why"], job["exit_code"]
    if job["state"] in ("queued", "running"):
        state = JobState.PENDING if job["state"] == "queued" else JobState.RUNNING
    elif job["state"] == "cancelled":
        state, reason = JobState.CANCELLED, "cancelled"
    elif job["state"] == "ended":
        state = JobState.COMPLETE if code == 0 and not reason else JobState.FAILED
        reason = reason or (f"exit code {code}" if code else "")
    facts = {"exit_code": code} if code is not None and code >= 0 else {}
    return Observation(state, job["state"], str(job["id"]), reason or None, facts)


class RestRepo(Repo):
    thread_safe = True  # a connection for each call, and nothing kept

    def __init__(self, service):
        self.service = service

    def put(self, local_path, site_path, properties):
        if not local_path.exists():
            raise NotFound(f"there is no file {local_path}")
        if site_path is None:
            raise SiteError("this site does not see the files of this host", hint="say where to put it")
        site_path = os.path.join(self.service.ask("GET", "/me")["home"], site_path)  # an absolute path stays as it is
        if local_path.is_dir():
            for path in sorted(local_path.iterdir()):
                self.put(path, f"{site_path}/{path.name}", properties)
            return self._stored(site_path)
        with local_path.open("rb") as file:
            return self._stored(site_path, **json.loads(self.service.open("PUT", f"/files{site_path}", file).read()))

    def get(self, stored, local_path):
        answer = self.service.open("GET", f"/files{stored.path}")
        local_path.parent.mkdir(parents=True, exist_ok=True)
        if answer.getheader("Content-Type") == "application/x-directory":
            local_path.mkdir(exist_ok=True)
            for name in json.loads(answer.read()):
                self.get(StoredData("", f"{stored.path}/{name}"), local_path / name)
            return StoredData("", str(local_path))
        part, digest = local_path.with_name(f".{local_path.name}.part"), hashlib.sha256()
        try:
            with part.open("wb") as file:
                for piece in iter(lambda: answer.read(1 << 20), b""):
                    file.write(piece)
                    digest.update(piece)
            size = part.stat().st_size
            if size != int(answer.getheader("Content-Length")):
                raise SiteError(f"{self.service.host} broke off", transient=True)
            if stored.sha256 not in (None, digest.hexdigest()):
                raise SiteError(f"{stored.path} is not what it was when it was recorded")
            part.replace(local_path)
        finally:
            part.unlink(missing_ok=True)
        return StoredData("", str(local_path), None, size, digest.hexdigest())

    def remove(self, stored):
        try:
            self.service.ask("DELETE", f"/files{stored.path}")
        except NotFound:
            pass  # it is gone already

    def _stored(self, path, size_bytes=None, sha256=None):
        url = f"http://{self.service.host}/files{quote(os.fsencode(path))}"
        return StoredData(url, path, self.service.host, size_bytes, sha256)


class RestSpin(Spin):
    def __init__(self, service):
        self.service = service

    def list(self):
        nodes = self.service.ask("GET", "/nodes")
        return [Resource(node["name"], "node", "up", {"cores": node["cores"]}) for node in nodes]

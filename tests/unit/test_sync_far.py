"""The command line for the far side, given to the shells that people log in to; ssh's failures; the files of known hosts."""

from __future__ import annotations

import base64
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lwfm.errors import ConfigError, InsecureState, LoginRequired, LwfmError, NotFound, SiteError
from lwfm.sync import far
from lwfm.sync.address import Address
from lwfm.sync.far import NO_PYTHON, NOT_FOUND, command_line, explain, shell_line
from lwfm.sync.known_hosts import KnownHosts, fingerprint, name_of
from lwfm.sync.openssh_transport import judged, ssh_words
from lwfm.sync.tail import Tail

SHELLS = ("sh", "dash", "bash", "zsh", "csh", "tcsh", "fish")
AWKWARD = [
    "",
    "plain",
    "two words",
    "it's",
    'a "quoted" one',
    "$HOME `id` $(id)",
    "back\\slash \\\\ \\n \\0101 \\",
    "!! !x !",
    "new\nline\n",
    "*?[a]{b,c}~",
    "~/x",
    "=ls",
    "^a^b",
    "%d %s",
    "-n",
    "--",
    "é ü 漢",
    "#no comment",
    "a;b&c|d<e>f",
    "\t tab ",
]


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    found = shutil.which(str(request.param))
    if found is None:
        pytest.skip(f"there is no {request.param}")
    return found


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A home directory there."""
    home = tmp_path / "ho me"
    home.mkdir()
    return home


def run(shell: str, line: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """As sshd has it run."""
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8", **variables}
    words = [shell, "-c", line]
    return subprocess.run(words, env=environment, cwd=home, capture_output=True, text=True, timeout=60, check=False)


def fake(path: Path, body: str = 'echo "$0"; for word in "$@"; do echo "[$word]"; done') -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_every_word_comes_as_it_is(shell: str, there: Path) -> None:
    script = far.WHOLE_WORDS + 'for word in "$@"; do printf "[%s]" "$word"; done'
    done = run(shell, shell_line(script, AWKWARD), there)
    assert done.stdout == "".join(f"[{word}]" for word in AWKWARD), done.stderr
    assert done.stderr == ""


def test_words_that_are_not_text(there: Path) -> None:
    line = shell_line(far.WHOLE_WORDS + 'printf %s "$1"', [os.fsdecode(b"\xff\xfe")])
    done = subprocess.run(["sh", "-c", line], capture_output=True, check=True)
    assert done.stdout == b"\xff\xfe"


def test_it_is_found_and_given_its_words(shell: str, there: Path) -> None:
    lwfm = fake(there / ".lwfm" / "bin" / "lwfm")
    address = Address("host", remote_home="/a dir/it's")
    done = run(shell, command_line(address, ["sync", "serve", "--stdio"]), there)
    assert done.stdout.splitlines() == [str(lwfm), "[--home]", "[/a dir/it's]", "[sync]", "[serve]", "[--stdio]"]
    assert (done.returncode, done.stderr) == (0, "")


def test_the_archive_is_run_by_a_python(shell: str, there: Path) -> None:
    (there / "lwfm.pyz").write_text("import sys; print(sys.argv); sys.exit(5)")
    done = run(shell, command_line(Address("host"), ["a b"]), there)
    assert done.stdout.strip() == str([str(there / "lwfm.pyz"), "a b"]), done.stderr
    assert done.returncode == 5


def test_nothing_there(shell: str, there: Path) -> None:
    done = run(shell, command_line(Address("host"), ["x"]), there, PATH="/usr/bin:/bin")
    assert done.returncode == NOT_FOUND
    error = explain(done.returncode, done.stderr, Address("host", user="me"))
    assert isinstance(error, NotFound)
    assert error.message == "no lwfm found on me@host"
    assert "lwfm self copy me@host" in str(error.hint)


@pytest.mark.parametrize(
    "place",
    [
        ".lwfm/bin/lwfm",
        "lwfm.pyz",
        "bin/lwfm.pyz",
        ".local/bin/lwfm.pyz",
        "on path/lwfm.pyz",
        "on path/lwfm",
        ".local/bin/lwfm",
    ],
)
def test_the_usual_places(place: str, there: Path) -> None:
    if place.endswith(".pyz"):
        (there / place).parent.mkdir(parents=True, exist_ok=True)
        (there / place).write_text("import sys; print(sys.argv[0])")
        (there / place).chmod(0o700)
    else:
        fake(there / place)
    done = run("sh", command_line(Address("host"), []), there, PATH=f"{os.environ['PATH']}:{there}/on path")
    assert done.stdout.strip() == str(there / place), done.stderr


def test_the_instance_says_where_it_is(there: Path) -> None:
    fake(there / "lwfm.pyz", "exit 1")
    lwfm = fake(there / "else where" / "bin" / "lwfm")
    done = run("sh", command_line(Address("host"), []), there, LWFM_HOME=str(there / "else where"))
    assert done.stdout.strip() == str(lwfm)


@pytest.mark.parametrize("given", ["~/o p/it's", "o p/it's", "absolute", "on-path"])
def test_a_path_that_is_given(given: str, there: Path) -> None:
    fake(there / "lwfm.pyz", "exit 1")
    lwfm = fake(there / "o p" / "it's")
    fake(there / "bin" / "on-path")
    path = str(lwfm) if given == "absolute" else given
    line = command_line(Address("host", remote_path=path), [])
    done = run("sh", line, there, PATH=f"{os.environ['PATH']}:{there}/bin")
    assert done.stdout.strip() in (str(lwfm), "o p/it's", f"{there}/bin/on-path"), done.stderr
    assert done.returncode == 0


def test_a_given_path_is_the_only_one(there: Path) -> None:
    fake(there / ".lwfm" / "bin" / "lwfm")
    address = Address("host", remote_path="~/no thing")
    done = run("sh", command_line(address, []), there)
    error = explain(done.returncode, done.stderr, address)
    assert isinstance(error, NotFound)
    assert error.message == "there is no lwfm at ~/no thing on host"


def test_python_that_is_too_old_is_passed_over(there: Path, tmp_path: Path) -> None:
    (there / "lwfm.pyz").write_text("import sys; print(sys.executable)")
    old = tmp_path / "old"
    for name in far.PYTHONS:
        fake(old / name, "exit 1")
    (there / ".local" / "bin").mkdir(parents=True)
    (there / ".local" / "bin" / "python3.9").symlink_to(sys.executable)
    line = command_line(Address("host"), []).replace("/usr/bin/ ", "").replace('"/usr/bin/" "/usr/local/bin/"', "")
    done = run("sh", line, there, PATH=f"{old}:/usr/bin:/bin")
    assert done.returncode == 0, done.stderr
    (there / ".local" / "bin" / "python3.9").unlink()
    done = run("sh", line, there, PATH=f"{old}:/usr/bin:/bin")
    assert done.returncode == NO_PYTHON
    error = explain(done.returncode, done.stderr, Address("host"))
    assert isinstance(error, NotFound)
    assert error.message == "no Python 3.9 or newer found on host"
    assert "--remote-python" in str(error.hint)


def test_the_python_that_is_given(there: Path, tmp_path: Path) -> None:
    (there / "lwfm.pyz").write_text("import sys; print('ran')")
    python = fake(tmp_path / "a b" / "python", f'exec "{sys.executable}" "$@"')
    done = run("sh", command_line(Address("host", remote_python=str(python)), []), there)
    assert done.stdout.strip() == "ran"
    for wrong in ("no-such-python", str(fake(tmp_path / "too old", "exit 1"))):
        address = Address("host", remote_python=wrong)
        done = run("sh", command_line(address, []), there)
        assert isinstance(explain(done.returncode, done.stderr, address), NotFound)


def test_the_input_is_left_for_lwfm(there: Path) -> None:
    (there / "lwfm.pyz").write_text("import sys; sys.stdout.write(sys.stdin.read())")
    done = subprocess.run(
        ["sh", "-c", command_line(Address("host"), [])],
        env={"HOME": str(there), "PATH": os.environ["PATH"]},
        input=b"all of it",
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"all of it"


def test_other_ends_are_not_explained() -> None:
    assert explain(NOT_FOUND, "something else", Address("host")) is None
    assert explain(1, "", Address("host")) is None


# ---------------------------------------------------------------------------------------------- the user's own ssh


def test_the_words_for_ssh() -> None:
    address = Address("host", "me", 2222, "~/k", "openssh", ssh_config="/c")
    words = ssh_words(address, "run it", batch=True, timeout_s=7.5)
    assert words[0] == "ssh"
    assert words[-3:] == ["--", "host", "run it"]
    text = " ".join(words)
    for part in (
        "-T",
        "-e none",
        "-o BatchMode=yes",
        "-p 2222",
        "-l me",
        f"-i {Path.home()}/k",
        "-F /c",
        "ConnectTimeout=7",
    ):
        assert part in text
    assert "BatchMode" not in " ".join(ssh_words(address, "run it", batch=False, timeout_s=7))


@pytest.mark.parametrize(
    ("complaint", "kind", "transient"),
    [
        ("ssh: Could not resolve hostname x: Name or service not known", SiteError, True),
        ("ssh: connect to host x port 22: Connection refused", SiteError, True),
        ("ssh: connect to host x port 22: Connection timed out", SiteError, True),
        ("kex_exchange_identification: read: Connection reset by peer", SiteError, True),
        ("client_loop: send disconnect: Broken pipe", SiteError, True),
        ("me@x: Permission denied (publickey).", LoginRequired, False),
        ("Received disconnect from ::1 port 22:2: Too many authentication failures", LoginRequired, False),
        ("Host key verification failed.", InsecureState, False),
        (
            "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\nSHA256:abc.\nHost key verification failed.",
            InsecureState,
            False,
        ),
        ("/c: line 1: Bad configuration option: foo", ConfigError, False),
        ("something new", SiteError, False),
        ("", SiteError, False),
    ],
)
def test_what_ssh_says(complaint: str, kind: type[LwfmError], transient: bool) -> None:
    error = judged(255, complaint, Address("x"), batch=False)
    assert type(error) is kind
    assert error.transient is transient
    assert judged(1, complaint, Address("x"), batch=False) is None
    assert judged(None, complaint, Address("x"), batch=False) is None


# ---------------------------------------------------------------------------------------------- known hosts

KEY = base64.b64encode(b"key").decode()
OTHER = base64.b64encode(b"other").decode()


def known(tmp_path: Path, text: str) -> KnownHosts:
    (tmp_path / "known").write_text(text)
    return KnownHosts((tmp_path / "none", tmp_path / "known"), tmp_path / "known")


@pytest.mark.parametrize(
    ("line", "name", "there"),
    [
        ("host ssh-ed25519 K", "host", True),
        ("HOST,other ssh-ed25519 K comment", "host", True),
        ("host ssh-ed25519 K", "hos", False),
        ("*.example.org ssh-ed25519 K", "a.example.org", True),
        ("h?st ssh-ed25519 K", "host", True),
        ("*,!host ssh-ed25519 K", "host", False),
        ("!host,* ssh-ed25519 K", "host", False),
        ("*,!host ssh-ed25519 K", "other", True),
        ("[host]:22 ssh-ed25519 K", "host", False),
        ("[host]:2222 ssh-ed25519 K", "[host]:2222", True),
        ("[*]:2222 ssh-ed25519 K", "[host]:2222", True),
        ("[h]:2222 ssh-ed25519 K", "h", False),
        ("# host ssh-ed25519 K", "host", False),
        ("@cert-authority * ssh-ed25519 K", "host", False),
        ("@revoked * ssh-ed25519 K", "host", True),
        ("host ssh-ed25519 not-base64!", "host", False),
        ("host ssh-ed25519", "host", False),
        ("|1|broken ssh-ed25519 K", "host", False),
        ("host K", "host", False),
    ],
)
def test_lines_of_known_hosts(tmp_path: Path, line: str, name: str, there: bool) -> None:
    found = known(tmp_path, line.replace(" K", f" {KEY}") + "\n").of(name)
    assert bool(found) is there
    if there:
        assert (found[0].blob, found[0].line) == (b"key", 1)
        assert found[0].marker == ("@revoked" if line.startswith("@") else "")


@pytest.mark.parametrize("hashed", [False, True])
def test_keys_are_added(tmp_path: Path, hashed: bool) -> None:
    path = tmp_path / "ssh" / "known_hosts"
    hosts = KnownHosts((path,), path, hashed)
    hosts.add("[host]:2222", "ssh-ed25519", b"key")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with path.open("a") as file:
        file.write(f"unended ssh-rsa {OTHER}")
    hosts.add("host", "ssh-rsa", b"other")
    assert [line.blob for line in hosts.of("[host]:2222")] == [b"key"]
    assert [line.blob for line in hosts.of("host")] == [b"other"]
    assert [line.blob for line in hosts.of("unended")] == [b"other"]
    assert ("2222" in path.read_text()) is not hashed
    assert hosts.of("elsewhere") == []


def test_the_names_that_openssh_hashes(tmp_path: Path) -> None:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("there is no ssh-keygen")
    key = "AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ"
    path = tmp_path / "known"
    path.write_text(f"[host]:2222 ssh-ed25519 {key}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(path)], check=True, capture_output=True)
    assert "host" not in path.read_text()
    (line,) = KnownHosts((path,), None).of("[host]:2222")
    assert line.blob == base64.b64decode(key)
    shown = subprocess.run(["ssh-keygen", "-l", "-f", str(path)], check=True, capture_output=True, text=True).stdout
    assert fingerprint(line.blob) in shown


def test_names() -> None:
    assert name_of("Host.Example", 22) == "host.example"
    assert name_of("::1", 2222) == "[::1]:2222"


def test_the_tail_is_bounded() -> None:
    tail = Tail(10)
    for _ in range(100):
        tail.add(b"0123456789abc")
    assert tail.text() == "3456789abc"

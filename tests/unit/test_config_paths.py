"""sites.toml and the places of an instance: what is read, what is refused, and how it is said."""

from __future__ import annotations

import os
import pwd
import stat
import sys
import zipfile
from pathlib import Path

import pytest

from lwfm import paths
from lwfm.config import SiteConfig, VenvConfig, read_sites
from lwfm.errors import ConfigError, InsecureState
from lwfm.host.filesystems import filesystem_type, is_shared, locks_reach_other_hosts, mapped_writes_fail
from lwfm.host.private import check_owner, private_directory
from lwfm.paths import Home, locate, running_archive, self_command


def test_without_a_file_there_is_the_local_site(tmp_path: Path) -> None:
    assert read_sites(tmp_path / "sites.toml") == {name: SiteConfig(name, name) for name in ("local", "allocation")}


def test_sites_and_their_options(tmp_path: Path) -> None:
    path = tmp_path / "sites.toml"
    path.write_text(
        '\ufeff[local]\ncores = 2\n[far-away]\ndriver = "ssh"\nhost = "h"\n[far-away.more]\nx = [1]\n', encoding="utf-8"
    )
    assert read_sites(path) == {
        "local": SiteConfig("local", "local", {"cores": 2}),
        "allocation": SiteConfig("allocation", "allocation"),
        "far-away": SiteConfig("far-away", "ssh", {"host": "h", "more": {"x": [1]}}),
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[local\n", "line 1"),
        (b'[a]\ndriver = "x"\n[a]\n', "line 3"),
        (b"[a]\nhost = 'x'\n", "section [a] names no driver"),
        (b"[a]\ndriver = 5\n", "section [a] names no driver"),
        (b"[a]\ndriver = ''\n", "section [a] names no driver"),
        (b"key = 1\n", "'key' stands outside a section"),
        (b'["a/b"]\ndriver = "x"\n', "cannot be a site's name"),
        (b'[" "]\ndriver = "x"\n', "cannot be a site's name"),
        (b"\xff\xfe", "cannot read"),
        (b'[a]\ndriver = "x"\nprocess = 1\n', "process of [a] must be true or false"),
        (b'[a]\ndriver = "x"\nvenv = true\n', "venv must be text"),
        (b'[a]\ndriver = "x"\nvenv = "v"\npython = 3.12\n', "python must be text"),
        (b'[a]\ndriver = "x"\npillars = "local"\n', "pillars must name drivers"),
        (b'[a]\ndriver = "x"\npillars.run = ""\n', "pillars must name drivers"),
        (b'[a]\ndriver = "x"\npillars.jobs = "local"\n', "there is no pillar 'jobs'"),
        (b"[a]\npillars = {}\n", "section [a] names no driver"),
        (b"[local]\ncroes = 2\n", "[local] knows no 'croes'"),
        (b"[allocation]\ncores = 2\n", "[allocation] has no options, as cores"),
    ],
)
def test_what_is_wrong_in_it_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "sites.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        read_sites(path)
    assert said in raised.value.message
    assert str(path) in raised.value.message


def test_a_key_of_local_that_is_none_is_answered_with_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "sites.toml"
    for given, hint in (("croes", "did you mean cores?"), ("anything", "it knows cores, ")):
        path.write_text(f"[local]\n{given} = 2\n")
        with pytest.raises(ConfigError) as raised:
            read_sites(path)
        assert str(raised.value.hint).startswith(hint)


def test_what_says_where_a_driver_runs_is_no_option_of_it(tmp_path: Path) -> None:
    path = tmp_path / "sites.toml"
    path.write_text(
        '[a]\ndriver = "x"\nvenv = "v"\nrequirements = "r.txt"\npython = "3.12"\nmore = 1\n'
        '[b]\ndriver = "x"\nprocess = true\nrequirements = "an option"\npython = 3\nrun = "another"\n'
        '[c]\npillars.run = "x"\npillars.repo = "local"\n'
    )
    found = read_sites(path)
    assert found["a"] == SiteConfig("a", "x", {"more": 1}, venv=VenvConfig("v", "r.txt", "3.12"))
    assert found["b"] == SiteConfig(
        "b", "x", {"requirements": "an option", "python": 3, "run": "another"}, process=True
    )
    assert found["c"] == SiteConfig("c", None, {}, pillars={"run": "x", "repo": "local"})
    assert found["c"].drivers == ("x", "local")
    assert [found["c"].driver_of(pillar) for pillar in ("auth", "run", "repo")] == [None, "x", "local"]


def test_a_directory_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_sites(tmp_path)


def test_where_the_home_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("LWFM_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert locate().root == tmp_path / ".lwfm"
    monkeypatch.setenv("LWFM_HOME", "rel/ative")
    assert locate().root == tmp_path / "rel" / "ative"
    assert locate("~/x").root == tmp_path / "x"
    assert locate("/a/../b").root == Path("/b")


def test_its_directories_are_the_owners_alone(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    home.create()
    assert {stat.S_IMODE(path.stat().st_mode) for path in (home.root, home.sealed, home.runtime)} == {0o700}
    os.chmod(home.root, 0o755)
    home.create()
    assert stat.S_IMODE(home.root.stat().st_mode) == 0o700


def test_a_socket_has_a_short_path_also_when_the_home_has_not(tmp_path: Path) -> None:
    near, far = Home(tmp_path / "h"), Home(tmp_path / ("x" * 120))
    assert far.root not in far.socket.parents
    assert near.socket.parent == near.root
    for home in (near, far):
        home.create()
        assert len(os.fsencode(home.socket)) <= paths.MAX_SOCKET_PATH
    assert Home(tmp_path / ("y" * 120)).socket != far.socket


def test_on_a_shared_file_system_sockets_and_spool_are_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "is_shared", lambda path: True)
    home = Home(tmp_path)
    assert home.root not in home.spool.parents
    assert home.root in home.database.parents


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="is in the way"):
            private_directory(place)
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    with pytest.raises(ConfigError, match="is in the way"):
        private_directory(tmp_path / "nowhere")


def test_a_link_to_a_directory_of_ours_is_as_good(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    private_directory(tmp_path / "link")
    assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o700


def test_where_nothing_can_be_made() -> None:
    with pytest.raises(ConfigError, match="cannot use /proc/lwfm"):
        private_directory(Path("/proc/lwfm"))


def test_what_belongs_to_somebody_else_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    us = os.getuid()
    monkeypatch.setattr("lwfm.paths.os.getuid", lambda: us + 1)
    for check in (private_directory, check_owner):
        with pytest.raises(InsecureState, match=f"belongs to user {us}, not to you"):
            check(tmp_path)
    monkeypatch.undo()
    check_owner(tmp_path)
    with pytest.raises(FileNotFoundError):
        check_owner(tmp_path / "missing")


def test_a_directory_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lwfm.paths.os.access", lambda path, mode: False)
    with pytest.raises(ConfigError, match="cannot write to"):
        private_directory(tmp_path)


def test_how_lwfm_starts_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["-c"])
    assert self_command()[0] == sys.executable
    assert running_archive() is None
    archive = tmp_path / "lwfm.pyz"
    archive.touch()
    monkeypatch.setattr(sys, "argv", [str(archive)])
    assert running_archive() == archive
    renamed = tmp_path / "lwfm"
    monkeypatch.setattr(sys, "argv", [str(renamed)])
    for script in ("#!/usr/bin/python3\n", "import sys  # and more, so that it is as long as the end of an archive\n"):
        renamed.write_text(script)
        assert running_archive() is None
    with zipfile.ZipFile(renamed, "w") as packed:
        packed.writestr("__main__.py", "")
    assert running_archive() == renamed


MOUNTS = """\
22 1 0:20 / / rw - ext4 /dev/vda rw
23 22 0:21 / /home rw shared:1 - nfs4 server:/home rw
24 23 0:22 / /home/ada/local rw - xfs /dev/vdb rw
25 22 0:23 / /with\\040space rw - lustre lustre rw
26 22 0:24 / /fuse rw - fuse.sshfs ada@h rw
27 22 0:25 / /homely rw - tmpfs tmpfs rw
28 22 0:26 / /nolock rw - nfs server:/x rw,vers=3,nolock,local_lock=all
29 22 0:27 / /flock rw - lustre mgs:/x rw,flock,user_xattr
30 22 0:28 / /localflock rw - lustre mgs:/x rw,localflock
31 22 0:29 / /new rw - productfs x rw
32 22 0:30 / /fedora rw - btrfs /dev/vdc rw,subvol=/home
nonsense
"""


@pytest.fixture
def mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other file systems than there are."""
    monkeypatch.setattr("lwfm.host.filesystems.Path.read_text", lambda self, **_: MOUNTS)
    monkeypatch.setattr("lwfm.host.filesystems.Path.exists", lambda self: True)
    monkeypatch.setattr("lwfm.host.filesystems.os.path.realpath", lambda path: str(path))


@pytest.mark.parametrize(
    ("path", "reach"),
    [
        ("/etc", False), ("/home/x", True), ("/nolock/x", False), ("/with space/a", False), ("/flock/x", True),
        ("/localflock/x", False), ("/fuse/x", False), ("/new/x", False),
    ],
)  # fmt: skip
def test_where_locks_reach_other_hosts(path: str, reach: bool, mounts: None) -> None:
    assert locks_reach_other_hosts(Path(path)) is reach


@pytest.mark.parametrize(
    ("path", "kind", "shared"),
    [
        ("/etc", "ext4", False), ("/home/x/y", "nfs4", True), ("/home", "nfs4", True), ("/home/ada/local/z", "xfs", False),
        ("/with space/a", "lustre", True), ("/fuse/a", "fuse.sshfs", True), ("/homely/x", "tmpfs", False),
        ("/new/x", "productfs", True),
    ],
)  # fmt: skip
def test_kinds_of_file_systems(path: str, kind: str, shared: bool, mounts: None) -> None:
    assert filesystem_type(Path(path)) == kind
    assert is_shared(Path(path)) is shared


def test_where_a_full_disk_is_fatal_for_mapped_files(mounts: None) -> None:
    assert mapped_writes_fail(Path("/fedora/x"))
    assert not is_shared(Path("/fedora/x"))
    assert not mapped_writes_fail(Path("/etc"))


def test_a_kind_that_cannot_be_told_is_not_shared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object, **__: object) -> str:
        raise OSError

    monkeypatch.setattr("lwfm.host.filesystems.Path.read_text", fail)
    assert filesystem_type(tmp_path / "not" / "there") is None
    assert not is_shared(tmp_path)


def test_a_user_without_a_name_has_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container that is run as somebody its system does not know."""

    def unknown(uid: int) -> object:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    paths.user_name.cache_clear()
    assert paths.user_name() == str(os.getuid())
    paths.user_name.cache_clear()

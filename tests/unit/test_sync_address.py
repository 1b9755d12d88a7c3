"""The address of another instance: what people write, and what is refused."""

from __future__ import annotations

import pytest

from lwfm.errors import InvalidRecord
from lwfm.sync.address import Address, parse


@pytest.mark.parametrize(
    ("text", "user", "host", "port"),
    [
        ("cluster", None, "cluster", None),
        ("me@cluster", "me", "cluster", None),
        ("me@cluster:2222", "me", "cluster", 2222),
        ("cluster:22", None, "cluster", 22),
        ("ssh://me@cluster:2222", "me", "cluster", 2222),
        ("SSH://cluster/", None, "cluster", None),
        ("10.0.0.1", None, "10.0.0.1", None),
        ("::1", None, "::1", None),
        ("[::1]:22", None, "::1", 22),
        ("me@[fe80::1%eth0]", "me", "fe80::1%eth0", None),
        ("me@idp@cluster", "me@idp", "cluster", None),
        ("corp\\me@cluster", "corp\\me", "cluster", None),
        ("login-1.example.org", None, "login-1.example.org", None),
    ],
)
def test_what_people_write(text: str, user: str | None, host: str, port: int | None) -> None:
    address = parse(text)
    assert (address.user, address.host, address.port) == (user, host, port)
    assert parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-oProxyCommand=touch x",
        "-h",
        "me@-h",
        "-l@host",
        "@host",
        "me@",
        "a b",
        "a\nb",
        "a\tb",
        "a\x00b",
        "a\u2028b",
        "host:",
        "host:0",
        "host:65536",
        "host:2x",
        "host:-1",
        "host:²",
        "[::1",
        "[::1]22",
        "[]:22",
        "$(id)",
        "a`id`",
        "a;id",
        "a|id",
        "a,b",
        "a'b",
        'a"b',
        "http://host",
        "ssh://",
        "ssh://host/path",
        "me\\@host",
        "m;e@host",
        "m e@host",
    ],
)
def test_what_is_refused(text: str) -> None:
    with pytest.raises(InvalidRecord):
        parse(text)


def test_options_go_before_what_is_written() -> None:
    address = parse("me@host:22", user="you", port=23, identity=None, transport="openssh")
    assert address == Address("host", user="you", port=23, transport="openssh")


@pytest.mark.parametrize(
    "fields",
    [
        {"transport": "telnet"},
        {"port": True},
        {"port": "22"},
        {"port": 0},
        {"identity": ""},
        {"remote_path": "a\0b"},
        {"ssh_config": 5},
        {"user": ""},
        {"user": "-x"},
    ],
)
def test_other_fields_are_judged_too(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidRecord):
        Address.from_json({"host": "host", **fields})


def test_round_trip() -> None:
    for address in (
        Address("host"),
        Address("host", "me", 22, "~/.ssh/k", "openssh", "~/l.pyz", "python3.9", "/h o m e", "/etc/c"),
    ):
        assert Address.from_json(address.to_json()) == address
    assert Address("host").to_json() == {"host": "host"}
    assert Address.from_json({"host": "host", "of_a_newer_release": 1}) == Address("host")
    with pytest.raises(InvalidRecord):
        Address.from_json({"user": "me"})

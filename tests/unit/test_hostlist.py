"""Lists of hosts in the notation of schedulers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lwfm import hostlist
from lwfm.errors import InvalidRecord


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("n1", ["n1"]),
        ("n[01-03,7],m5", ["n01", "n02", "n03", "n7", "m5"]),
        ("n[8-11]", ["n8", "n9", "n10", "n11"]),
        ("n[08-11]", ["n08", "n09", "n10", "n11"]),
        ("n[99-101]", ["n99", "n100", "n101"]),
        ("n[099-101]", ["n099", "n100", "n101"]),
        ("rack[1-2]n[1-2]", ["rack1n1", "rack1n2", "rack2n1", "rack2n2"]),
        ("cn[1-2]-ib.cluster", ["cn1-ib.cluster", "cn2-ib.cluster"]),
        ("nid[003456-003457]", ["nid003456", "nid003457"]),
        ("a,b", ["a", "b"]), ("a b\nc\n", ["a", "b", "c"]), ("a, n[1-2]", ["a", "n1", "n2"]), (" a ", ["a"]),
        ("[1-2]", ["1", "2"]), ("n[1-1]", ["n1"]), ("b,a,b", ["b", "a", "b"]), ("n[2,1,2]", ["n2", "n1", "n2"]),
        ("a_b.c-d", ["a_b.c-d"]),
    ],
)  # fmt: skip
def test_expand(text: str, hosts: list[str]) -> None:
    assert hostlist.expand(text) == hosts


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("", "empty"), (" \n", "empty"), ("a,,b", "nothing between"), ("a,", "nothing between"), (",", "nothing between"),
        ("n[1-2", "brackets"), ("n1-2]", "brackets"), ("n[[1]]", "brackets"), ("n]1[", "brackets"), ("n[1, 2]", "brackets"),
        ("n[]", "number or a range"), ("n[a]", "number or a range"), ("n[1-]", "number or a range"), ("n[1-2-3]", "number"),
        ("n[-1]", "number or a range"), ("n[1,]", "number or a range"), ("n[١]", "number or a range"),
        ("n[2-1]", "backwards"), ("n[1-03]", "zeros"), ("-oProxyCommand=x", "cannot be a host"), (".n", "cannot be a host"),
        ("n;rm", "cannot be a host"), ("(null)", "cannot be a host"), ("n$(x)", "cannot be a host"), ("nö", "cannot be a host"),
        ("n[1-100001]", "more than 100000"), ("n[1-999999999999999999]", "more than 100000"),
        ("a[1-1000]b[1-1000]", "more than 100000"), ("n[1-60000],n[1-60000]", "more than 100000"),
        ("n[1-60000,1-60000]", "more than 100000"),
    ],
)  # fmt: skip
def test_what_is_no_list_of_hosts(text: str, about: str) -> None:
    with pytest.raises(InvalidRecord, match=about):
        hostlist.expand(text)


def test_as_many_hosts_as_are_allowed() -> None:
    assert len(hostlist.expand("n[1-100000]")) == hostlist.MAX_HOSTS
    assert hostlist.expand(" ".join(f"n{number}" for number in range(hostlist.MAX_HOSTS)))[-1] == "n99999"


def test_a_message_does_not_repeat_a_long_list() -> None:
    with pytest.raises(InvalidRecord) as caught:
        hostlist.expand("n" * 10_000 + "[")
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("hosts", "text"),
    [
        ([], ""), (["n1"], "n1"), (["n1", "n2", "n3", "n5"], "n[1-3,5]"), (["n09", "n10", "m1"], "n[09-10],m1"),
        (["n9", "n10"], "n[9-10]"), (["n09", "n010"], "n[09,010]"), (["n2", "n1", "n1"], "n[2,1,1]"),
        (["r1n1", "r1n2", "r2n1"], "r1n[1-2],r2n1"), (["login", "login", "n1"], "login,login,n1"),
        (["n1-ib", "n2-ib"], "n[1-2]-ib"),
    ],
)  # fmt: skip
def test_fold(hosts: list[str], text: str) -> None:
    assert hostlist.fold(hosts) == text


names = st.from_regex(r"[a-z0-9_][a-z0-9_.-]{0,8}[0-9]{0,4}(-ib)?", fullmatch=True)
neighbours = st.builds(
    lambda before, start, count, width: [f"{before}{number:0{width}}" for number in range(start, start + count)],
    st.sampled_from(["n", "rack1n", "x-", ""]),
    st.integers(0, 10_000),
    st.integers(1, 30),
    st.integers(1, 6),
)


@given(st.lists(st.one_of(names.map(lambda name: [name]), neighbours), min_size=1, max_size=8))
def test_what_is_folded_expands_to_the_same(groups: list[list[str]]) -> None:
    hosts = [host for group in groups for host in group]
    assert hostlist.expand(hostlist.fold(hosts)) == hosts


@given(st.text(alphabet="n019[],- \n.", max_size=20))
def test_any_text_expands_or_is_refused(text: str) -> None:
    try:
        hosts = hostlist.expand(text)
    except InvalidRecord:
        return
    assert hosts
    assert hostlist.expand(",".join(hosts)) == hosts


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("n1", "n1", True), ("n1", "N1", True), ("n1", "n1.cluster", True), ("n1.cluster", "n1", True), ("n1", "n2", False),
        ("n1.east", "n1.west", False), ("n1", "n10", False), ("n1.a", "n1.a.b", False),
    ],
)  # fmt: skip
def test_same_host(one: str, other: str, same: bool) -> None:
    assert hostlist.same_host(one, other) is same

"""The report: what it is computed from, what the page holds, and where it is written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lwfm import errors
from lwfm.__main__ import main
from lwfm.cli import charts, report_facts, report_page, report_svg
from lwfm.cli.charts import Span
from lwfm.clock import parse_utc, utc_text

from support.fake_api import FakeApi, Raw, Request, in_use

FLOW = "019aab12-0000-7000-8000-000000000003"
START = parse_utc("2026-01-02T03:04:05.000000Z")
HOSTILE = "<script>alert(1)</script> & \"quoted\" 'so' \x1b[2J \udce9 \u202e"
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """A page, read strictly: every element is closed, in order.

    ``text``: of the page without its style. ``tags``: how often each element occurs. ``references``: what it refers to.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: dict[str, int] = {}
        self.identifiers: list[str] = []
        self.references: list[str] = []
        self.texts: list[str] = []
        self.svg_titles = 0
        self.feed(html)
        self.close()
        assert self.open == []
        assert len(set(self.identifiers)) == len(self.identifiers)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Optional[str]]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        for name, value in attrs:
            assert not name.startswith("on"), name
            if name == "id" and value:
                self.identifiers.append(value)
            if name in ("href", "src", "srcset", "action", "data", "xlink:href") and value:
                self.references.append(value)
        if tag == "title" and self.open[-1:] == ["svg"]:
            self.svg_titles += 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, Optional[str]]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


def read(path: Path) -> Page:
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert all(reference.startswith("#") for reference in page.references), page.references
    assert not {"script", "link", "iframe", "object", "embed", "img"} & set(page.tags)
    assert not re.search(r"@import|url\((?!#)", html)
    assert set(page.references) <= {"#" + name for name in page.identifiers}
    return page


def job(
    number: int, state: str = "COMPLETE", *, start_s: float = 0.0, length_s: float = 1.0, **more: Any
) -> dict[str, Any]:
    """A job as the list has it; ``None`` in ``more`` leaves a key out."""
    found = {
        "job_id": f"019aab12-{number:04x}-7000-8000-000000000001",
        "state": state,
        "name": f"sim-{number}",
        "command": f"sim {number}",
        "site": "local",
        "host": "n1",
        "submitted_at": utc_text(START - 10),
        "started_at": utc_text(START + start_s),
        "ended_at": utc_text(START + start_s + length_s),
        "cpu_seconds": 0.5,
        "peak_rss_bytes": 2**20,
        "stderr_bytes": 0,
        **more,
    }
    return {key: value for key, value in found.items() if value is not None}


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    with in_use(tmp_path, monkeypatch) as fake:
        fake.replies["GET /v1/agent"] = {"version": "9.9", "host": "here", "workers": [{"host": "n1", "cores": 4}]}
        yield fake


def serve(
    api: FakeApi,
    jobs: list[dict[str, Any]],
    *,
    workflow: Optional[dict[str, Any]] = None,
    details: Optional[dict[str, Any]] = None,
    data: Any = (),
    handlers: Any = (),
    nodes: Any = None,
) -> None:
    """Have the agent tell of these jobs, oldest first; n1 was there all the time unless ``nodes`` says when nodes came and went."""
    api.replies["GET /v1/nodes"] = {"nodes": [came("n1", -60, 4)] if nodes is None else list(nodes)}
    flow = {"workflow_id": FLOW, "name": "melt", "created_at": utc_text(START - 20), **(workflow or {})}
    api.replies["GET /v1/workflows/last"] = flow
    api.replies[f"GET /v1/workflows/{FLOW}"] = flow
    api.replies["GET /v1/jobs"] = {"jobs": jobs[::-1]}
    api.replies["GET /v1/data"] = {"data": list(data)}
    api.replies["GET /v1/handlers"] = {"handlers": list(handlers)}
    for item in jobs:
        api.replies[f"GET /v1/jobs/{item['job_id']}"] = {**item, **(details or {})}


def came(host: str, at: float, cores: int = 4, state: str = "up") -> dict[str, Any]:
    """A node's coming, or with another state its going, so many seconds after the beginning."""
    return {"worker_id": f"w-{host}", "host": host, "state": state, "cores": cores, "time": utc_text(START + at)}


def reported(api: FakeApi, *words: str) -> Page:
    assert main(["report", "last", "--output", "r.html", *words]) == 0
    return read(Path("r.html"))


class TestCharts:
    def test_rows(self) -> None:
        assert charts.pack([Span(0, 2), Span(1, 3), Span(2, 4), Span(2.5, 3)]) == ([0, 1, 0, 2], 3)
        assert charts.pack([]) == ([], 0)
        assert charts.pack([Span(0, 0), Span(0, 0)], least=1.0)[1] == 2  # what is drawn wider than it is
        assert charts.pack([Span(0, 0), Span(0, 0)])[1] == 1

    @given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=40))
    def test_rows_do_not_overlap_and_are_as_few_as_can_be(self, pairs: list[tuple[int, int]]) -> None:
        spans = [Span(start, start + length) for start, length in pairs]
        rows, count = charts.pack(spans)
        for row in range(count):
            of_row = sorted(span for span, at in zip(spans, rows) if at == row)
            assert all(one.end <= other.start for one, other in zip(of_row, of_row[1:]))
        assert count >= charts.peak(spans)
        if all(length for _, length in pairs):
            assert count == charts.peak(spans)

    def test_levels(self) -> None:
        spans = [Span(0, 10), Span(5, 10, 2), Span(10, 20), Span(3, 3, 99)]
        assert charts.levels(spans, 0, 20, 4) == ([1, 3, 1, 1], [1, 3, 1, 1])
        assert charts.levels([Span(0, 0.5)], 0, 2, 2) == ([0.5, 0], [1, 0])
        assert charts.levels([Span(-5, 50)], 0, 2, 2) == ([1, 1], [1, 1])  # cut at both ends
        assert charts.levels(spans, 3, 3, 2) == ([0, 0], [0, 0])
        assert charts.levels(spans, 0, 1, 0) == ([], [])

    @given(
        st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 1e3), st.integers(0, 64)), max_size=30), st.integers(1, 50)
    )
    def test_levels_lose_nothing(self, triples: list[tuple[float, float, int]], bins: int) -> None:
        spans = [Span(start, start + length, float(weight)) for start, length, weight in triples]
        end = max((span.end for span in spans), default=1.0)
        found = charts.levels(spans, 0.0, end, bins)
        if end > 0:
            assert sum(found.mean) * end / bins == pytest.approx(charts.total(spans), rel=1e-6, abs=1e-6)
        assert all(mean <= most + 1e-6 for mean, most in zip(found.mean, found.most))
        assert found.peak <= charts.peak(spans) + 1e-9

    def test_a_span_cannot_end_before_it_starts(self) -> None:
        assert charts.span_of(5.0, 3.0) == Span(5.0, 5.0)

    def test_scale(self) -> None:
        place = charts.scale(10, 20, 100)
        assert [place(value) for value in (10, 15, 20, 5, 25)] == [0, 50, 100, 0, 100]
        assert charts.scale(3, 3, 100)(3) == 0

    @pytest.mark.parametrize(
        ("high", "marks"),
        [
            (0, [0, 1]),
            (float("nan"), [0, 1]),
            (3, [0, 1, 2, 3]),
            (7, [0, 2, 4, 6, 8]),
            (12345, [0, 5000, 10000, 15000]),
        ],
    )
    def test_ticks(self, high: float, marks: list[float]) -> None:
        assert charts.ticks(high) == marks

    def test_ticks_of_bytes_and_of_counts(self) -> None:
        assert charts.ticks(5.3 * 2**30, binary=True) == [0, 2 * 2**30, 4 * 2**30, 6 * 2**30]
        assert charts.whole_ticks(1) == [0, 1]
        assert charts.whole_ticks(2) == [0, 1, 2]

    @pytest.mark.parametrize(
        ("length_s", "labels"),
        [
            (0, ["0"]),
            (0.003, ["0", "0.5 ms", "1 ms", "1.5 ms", "2 ms", "2.5 ms", "3 ms"]),
            (9, ["0", "2 s", "4 s", "6 s", "8 s"]),
            (70, ["0", "10 s", "20 s", "30 s", "40 s", "50 s", "1:00 min", "1:10 min"]),
            (4000, ["0", "10 min", "20 min", "30 min", "40 min", "50 min", "1:00 h"]),
            (30000, ["0", "2 h", "4 h", "6 h", "8 h"]),
            (86400 * 90, ["0", "20 d", "40 d", "60 d", "80 d"]),
        ],
    )
    def test_time_axis(self, length_s: float, labels: list[str]) -> None:
        marks = charts.time_ticks(length_s)
        assert [charts.time_label(mark, [*marks, 1.0][1]) for mark in marks] == labels


class TestPage:
    def test_no_jobs(self, api: FakeApi) -> None:
        serve(api, [])
        text = reported(api).text
        assert "This workflow has no jobs." in text
        assert "No data was put." in text
        assert "None were set." in text

    def test_jobs_that_never_started(self, api: FakeApi) -> None:
        never: dict[str, Any] = {"started_at": None, "ended_at": None, "host": None}
        serve(api, [job(1, "PENDING", **never), job(2, "CANCELLED", **never, reason="not wanted")])
        text = reported(api).text
        assert "No job has started yet." in text
        assert "sim-1" in text
        assert "not wanted" in text

    def test_what_it_is(self, api: FakeApi) -> None:
        context = {
            "host": "login1",
            "user": "ada",
            "cwd": "/w",
            "git": {"commit": "abc", "dirty": True},
            "version": "0.1",
        }
        flow = {"description": "of a study", "meta": {"T": 1}, "created_at": "nonsense"}
        serve(api, [job(1)], workflow=flow, details={"context": context})
        text = reported(api).text
        for words in (
            "melt",
            "of a study",
            FLOW,
            "login1",
            "by ada",
            "abc with changes",
            "T=1",
            "9.9; 0.1 when its first",
        ):
            assert words in text, words

    def test_totals(self, api: FakeApi) -> None:
        second = job(2, start_s=2, length_s=2, peak_rss_bytes=3 * 2**30, cores=2)
        serve(api, [job(1, length_s=2, cores=2), second, job(3, "PENDING", started_at=None)])
        text = reported(api).text
        assert "4.00s wall time, first start to last end" in text
        assert "8.0 core-seconds used (50%)" in text
        assert "16.0 core-seconds available on 1 node" in text
        assert "1.0 CPU seconds measured" in text
        assert "3.0 GiB peak memory of one job, sim-2" in text
        assert "COMPLETE 2" in text
        assert "all 3" in text
        assert "Cores in use over time, at most 2 of 4" in text
        assert "Memory over time: an upper estimate, at most 3.0 GiB" in text

    def test_nodes_count_for_as_long_as_they_were_there(self, api: FakeApi) -> None:
        """One all the time, one from the half on, one that had left before, one that no job ran on."""
        changes = [
            came("gone", -90, 8),
            came("n1", -60, 4),
            came("gone", -30, 8, "left"),
            came("n2", 2, 2),
            came("idle", 3, 1),
            came("idle", 4, 1, "lost"),
        ]
        serve(api, [job(1, length_s=4, cores=2), job(2, host="n2", start_s=2, length_s=2)], nodes=changes)
        text = reported(api).text
        assert "21.0 core-seconds available on 3 nodes" in text  # 4 cores for 4 s, 2 for 2 s, 1 for 1 s
        assert "10.0 core-seconds used (48%)" in text
        assert "Cores in use over time, at most 3 of 7" in text

    def test_a_job_over_several_nodes_is_seen_on_each_and_counted_once(self, api: FakeApi) -> None:
        serve(
            api,
            [job(1, length_s=4, cores=2, hosts="n[1-3]"), job(2, host="n2", length_s=2)],
            nodes=[came(f"n{number}", -9, 4) for number in (1, 2, 3)],
        )
        text = reported(api).text
        assert "2 runs of jobs on 3 nodes over time" in text
        assert "26.0 core-seconds used (54%)" in text
        assert "1.0 CPU seconds measured" in text
        assert "Running jobs over time, at most 2" in text
        assert "Cores in use over time, at most 7 of 12" in text
        assert "The 2 longest of 2 runs" in text

    def test_a_running_job_lasts_until_now(self, api: FakeApi) -> None:
        serve(api, [job(1, "RUNNING", ended_at=None, cpu_seconds=None, peak_rss_bytes=None)])
        text = reported(api).text
        assert "first start to now" in text
        assert "so far" in text
        assert "(still going on)" in text
        assert "No memory was measured." in text

    def test_earlier_attempts_are_drawn_and_counted(self, api: FakeApi) -> None:
        last = job(1, attempt=2, start_s=5)
        first = {**job(1, "FAILED", host="n2"), "attempt": 1, "reason": "exit code 3"}
        serve(api, [last])
        statuses = [{"state": "PENDING", "ended_attempt": first}, {"state": "COMPLETE"}]
        api.replies[f"GET /v1/jobs/{last['job_id']}/statuses"] = {"statuses": statuses}
        text = reported(api).text
        assert "n2, attempt 1 exit code 3" in text
        assert "n1, attempt 2" in text
        assert "1.0 CPU seconds measured" in text
        assert "Failed jobs None." in text  # the job has not failed, one attempt has
        assert "1 node of which no record tells when it was there" in text

    def test_clocks_that_disagree(self, api: FakeApi) -> None:
        serve(api, [job(1, length_s=-3), job(2)])
        text = reported(api).text
        assert "1 run ended before the start" in text

    def test_jobs_without_a_host_or_with_nonsense_for_a_time(self, api: FakeApi) -> None:
        strange = job(3, ended_at="tomorrow", time=utc_text(START + 4))
        serve(api, [job(1, host=None, site="slurm"), job(2, started_at="yesterday"), strange])
        text = reported(api).text
        assert "slurm: node unknown" in text
        assert "It is not known on which node 1 run took place" in text
        assert "4.00s wall time" in text

    def test_everything_from_records_is_escaped(self, api: FakeApi) -> None:
        bad = job(
            1, "FAILED", name=HOSTILE, host=HOSTILE, reason=HOSTILE, command=HOSTILE, site=HOSTILE, stderr_bytes=9
        )
        sheet = {"data_id": "d", "path": HOSTILE, "host": HOSTILE, "properties": {HOSTILE: HOSTILE}, "job_id": HOSTILE}
        event = {"match": {HOSTILE: HOSTILE}, "defn": {"command": [HOSTILE]}}
        handlers = [{"handler_id": HOSTILE, "kind": "data", "state": HOSTILE, "event": event}]
        context = {"host": HOSTILE, "user": HOSTILE, "cwd": HOSTILE, "git": {"commit": HOSTILE}, "version": HOSTILE}
        flow = {"name": HOSTILE, "description": HOSTILE, "meta": {HOSTILE: HOSTILE}}
        serve(api, [bad], workflow=flow, details={"context": context}, data=[sheet], handlers=handlers)
        api.replies[f"GET /v1/jobs/{bad['job_id']}/output"] = Raw(HOSTILE.encode("utf-8", "surrogateescape") + b"\0")
        page = reported(api)
        assert page.text.count("<script>alert(1)</script>") > 10
        assert "\x1b" not in page.text
        assert "\0" not in page.text
        assert "\u202e" not in page.text

    def test_failures(self, api: FakeApi) -> None:
        broken = [
            job(number, "FAILED", start_s=number, reason="exit code 3", stderr_bytes=9000) for number in range(60)
        ]
        silent = job(100, "FAILED", start_s=-5, exit_code=4)
        serve(api, [*broken, silent, job(101)])
        asked: list[Request] = []

        def output(request: Request) -> Raw:
            asked.append(request)
            return Raw(b"".join(b"line %d \x1b[31mred\x1b[0m\n" % number for number in range(30)))

        for item in broken:
            api.replies[f"GET /v1/jobs/{item['job_id']}/output"] = output
        lost = f"GET /v1/jobs/{broken[0]['job_id']}/output"
        api.replies[lost] = errors.NotFound("gone")
        api.replies[f"GET /v1/jobs/{broken[1]['job_id']}/output"] = errors.SiteError("the site is away")
        text = reported(api).text
        assert "61 of 62 jobs failed" in text
        assert "exit code 3 60" in text
        assert "exit code 4 1" in text
        assert "The first 50 that failed" in text
        assert "Nothing on standard error." in text
        assert "Standard error: no longer there" in text
        assert "Standard error: the site is away" in text
        assert "line 29 red" in text
        assert "line 14 red" not in text  # only the last lines
        assert len(asked) == 47
        assert asked[0].query == {"stream": ["stderr"], "offset": ["4904"], "limit": ["4096"]}

    def test_a_site_that_does_not_answer_does_not_hold_it_up(
        self, api: FakeApi, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(report_facts, "OUTPUTS_TIME_S", -1.0)
        serve(api, [job(1, "FAILED", stderr_bytes=5)])
        assert "not asked for" in reported(api).text

    def test_data_and_handlers(self, api: FakeApi) -> None:
        data = [{"data_id": f"d{n}", "path": f"/w/{n}", "size_bytes": 2048, "properties": {"T": n}} for n in range(60)]
        on_jobs = {"jobs": ["a", "b"], "states": ["FAILED"], "mode": "any", "notify": {"url": "https://x"}}
        on_data = {"match": {"kind": "thermo"}, "defn": {"command": ["plot", "it"]}}
        handlers = [
            {"handler_id": "h2", "kind": "job", "state": "waiting", "event": on_jobs},
            {"handler_id": "h1", "kind": "data", "state": "done", "fired": 3, "event": on_data},
        ]
        serve(api, [job(1)], data=data[::-1], handlers=handlers)
        text = reported(api).text
        assert "60 put; the first 50" in text
        assert "/w/49 2.0 KiB" in text
        assert "T=49" in text
        assert "/w/50" not in text
        assert "any of 2 jobs FAILED tell https://x" in text
        assert "done 3 data with kind=thermo plot it" in text
        assert api.asked("GET", "/v1/data")[0].query["op"] == ["put"]

    def test_pictures_have_titles_and_their_bars_too(self, api: FakeApi) -> None:
        serve(api, [job(1), job(2, "FAILED", reason="exit code 3", host="n2")])
        page = reported(api)
        assert page.svg_titles == 4
        assert "sim-2 019aab12-0002-7000-8000-000000000001 FAILED, 1.00s, n2 exit code 3" in page.text
        for state in ("COMPLETE", "FAILED"):
            assert state in page.text

    def test_nodes_are_in_the_order_people_count(self, api: FakeApi) -> None:
        serve(api, [job(number, host=f"n{number}") for number in (10, 9, 100)])
        assert re.search(r"n9 n9 .*n10 n10 .*n100 n100 ", reported(api).text)


class TestMany:
    def test_many_jobs_are_drawn_as_strips_and_few_are_asked_for(self, api: FakeApi) -> None:
        count = report_svg.BARS + 1
        jobs = [
            job(n, "FAILED" if n % 50 == 3 else "COMPLETE", start_s=n // 8, host=f"n{n % 2}", cores=2)
            for n in range(count)
        ]
        serve(api, jobs)
        page = reported(api)
        assert "Too many runs for a bar each (3,001)" in page.text
        assert "Cores in use over time, at most 16" in page.text
        assert "These are the first 1,000." in page.text
        assert page.tags["rect"] < 4000
        assert len(api.requests) < 100

    def test_jobs_that_need_no_core_are_seen_in_strips(self, api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(report_svg, "BARS", 1)
        serve(api, [job(1, cores=0), job(2, cores=0)])
        html = reported(api).text
        assert "n1: 2 COMPLETE" in html

    def test_the_busiest_nodes_are_drawn(self, api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(report_svg, "BARS", 1)
        monkeypatch.setattr(report_svg, "STRIPS", 2)
        serve(api, [job(number, host=f"n{number}", length_s=number) for number in (1, 2, 3)])
        text = reported(api).text
        assert "Only the 2 busiest of 3 nodes are drawn." in text
        assert "n1: 1 COMPLETE" not in text

    def test_attempts_that_are_not_asked_for_are_owned_up_to(
        self, api: FakeApi, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(report_facts, "ASKED_ATTEMPTS", 0)
        serve(api, [job(1, attempt=2)])
        assert "Earlier attempts of 1 job are left out." in reported(api).text


class TestFile:
    def test_its_name(self, api: FakeApi, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        serve(api, [job(1)])
        assert main(["report", "last"]) == 0
        path = tmp_path / "report-019aab12-0000-7000.html"
        assert capsys.readouterr().out == f"{path}\n"
        assert path.read_text(encoding="utf-8").index(report_page.MARK) < 200
        assert main(["report", "last"]) == 0  # a report may be replaced

    def test_other_files_are_not_overwritten(self, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        serve(api, [job(1)])
        Path("mine.html").write_text("precious")
        assert main(["report", "last", "-o", "mine.html"]) == 2
        assert "is not a report of lwfm" in capsys.readouterr().err
        assert Path("mine.html").read_text() == "precious"
        assert len(api.requests) == 1  # and nothing was asked for in vain
        assert main(["report", "last", "-o", "mine.html", "--force"]) == 0
        read(Path("mine.html"))

    @pytest.mark.parametrize("name", [".", "nowhere/r.html"])
    def test_where_it_cannot_be_written(self, api: FakeApi, name: str, tmp_path: Path) -> None:
        serve(api, [job(1)])
        assert main(["report", "last", "-o", name, "--force"]) == 2
        assert not list(tmp_path.rglob("*.part"))

    def test_no_such_workflow(self, api: FakeApi, tmp_path: Path) -> None:
        assert main(["report", "abc"]) == 3
        assert not list(tmp_path.glob("*.html"))

"""docs/store.md tells of every table and column that there is, and its examples run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lwfm.store import schema

from support.threads import Thread

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "store.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```sql\n(.*?)```", TEXT, re.DOTALL)
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", TEXT, re.DOTALL | re.MULTILINE))


@pytest.fixture(scope="module")
def thread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thread]:
    thread = Thread(tmp_path_factory.mktemp("docs"))
    workflow = thread.workflow("melt")
    thread.on_data({"kind": "thermo"}, workflow=workflow, repeat=True, defn={"command": "analyse"})
    for number in range(3):
        job = thread.submit(["lmp", str(number)], workflow, name="melt")
        thread.put(
            path=f"/{number}.log",
            job_id=job,
            workflow_id=workflow,
            properties={"kind": "thermo", "T": number, "final_pressure": 2},
        )
        thread.run(job, code=number // 2, cpu_seconds=0.5)
    thread.on_jobs([job], keep=True)
    thread.unit(thread.service.log, [{"message": "a warning", "level": "WARNING", "job_id": job}])
    yield thread
    thread.close()


def objects(thread: Thread) -> list[str]:
    query = (
        "select name from sqlite_master where type in ('table', 'view') and name not like 'sqlite_%' and sql not null"
    )
    names = [str(row[0]) for row in thread.connection.execute(query)]
    return [name for name in names if not name.startswith(("search_", "_sqlite_"))]


def test_every_table_and_view_is_told_of_and_no_other(thread: Thread) -> None:
    assert sorted(SECTIONS) == sorted(objects(thread))


def test_every_column_is_told_of_and_no_other(thread: Thread) -> None:
    for name in objects(thread):
        columns = {str(row[1]) for row in thread.connection.execute(f"pragma table_info({name})")}
        words = set(re.findall(r"`(\w+)`", SECTIONS[name]))
        assert columns <= words, f"{name}: {columns - words}"
        table_rows = re.findall(r"^\| (`[^|]*) \|", SECTIONS[name], re.MULTILINE)
        told = {word for cell in table_rows for word in re.findall(r"`(\w+)`", cell)}
        assert told <= columns, f"{name}: {told - columns}"


@pytest.mark.parametrize("query", EXAMPLES, ids=lambda query: " ".join(query.split()[:6]))
def test_every_example_runs_and_finds_something(thread: Thread, query: str) -> None:
    reader = thread.store.reader()
    assert reader is not None
    assert reader.execute(query).fetchall()
    reader.close()


def test_the_examples_are_there() -> None:
    assert len(EXAMPLES) >= 10


def test_projections_are_the_tables_made_from_the_log(thread: Thread) -> None:
    tables = {name for name in objects(thread) if name not in ("log", "fragments", "job_current", "lineage_edges")}
    assert {name for name in tables if not name.startswith("local_")} == set(schema.PROJECTIONS)

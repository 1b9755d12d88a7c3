"""A report as one page of HTML that needs nothing else: no network, no script. Asks nobody anything.

Everything that comes from records passes through ``report_html.clean``, which escapes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

from .. import __version__
from ..ids import short
from ..states import TERMINAL
from . import charts
from .report_facts import COUNTED, LISTED_DATA, LISTED_FAILURES, LISTED_HANDLERS, Facts, Run, seconds
from .report_html import Cell, clean, identifier, in_order, number, state_cell, state_key, table, utc
from .report_style import STYLE, patterns, state_rules
from .report_svg import LEVEL_BINS, jobs_on_nodes, level_picture
from .text import duration, plural, properties, size, why

if TYPE_CHECKING:
    from ..records import JSON

MARK = '<meta name="generator" content="lwfm report'
"""By this, near its beginning, a file is known as a report of ours."""
SLOWEST = 20
LISTED_JOBS = 1_000
OPEN_JOBS = 60
"""Up to so many jobs are listed without a click."""
REASONS = 20
NAME_LENGTH = 200
COMMAND_LENGTH = 200
REASON_LENGTH = 400
PROPERTIES_LENGTH = 300


def page(facts: Facts) -> str:
    """The whole page."""
    name = clean(facts.workflow.get("name") or "workflow", NAME_LENGTH)
    sections = [
        ("totals", "Totals", _totals(facts)),
        ("nodes", "Jobs on nodes", _on_nodes(facts)),
        ("levels", "At once", _levels(facts)),
        ("slowest", "Slowest jobs", _slowest(facts)),
        ("failed", "Failed jobs", _failed(facts)),
        ("data", "Data", _data(facts)),
        ("handlers", "Handlers", _handlers(facts)),
        ("jobs", "All jobs", _jobs(facts)),
    ]
    links = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in sections)
    body = "".join(
        f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{title}</h2>{content}</section>\n'
        for anchor, title, content in sections
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{MARK} {escape(__version__)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name} – lwfm report</title>\n<style>{STYLE}{state_rules()}</style>\n</head>\n<body>\n{patterns()}"
        f"<header><h1>{name}</h1>{_about(facts)}<nav>{links}</nav></header>\n<main>\n{body}</main>\n"
        f"<footer>Made by lwfm {escape(__version__)} on {utc(facts.made_at)}. Times are UTC.</footer>\n</body>\n</html>\n"
    )


def _about(facts: Facts) -> str:
    workflow, context = facts.workflow, facts.context
    git = context.get("git") if isinstance(context.get("git"), dict) else {}
    commit = str(git.get("commit", "")) + (" with changes" if git.get("dirty") else "") if git else ""
    recorded, agent = context.get("version"), facts.agent.get("version")
    versions = f"{agent}" if recorded in (None, agent) else f"{agent}; {recorded} when its first job was submitted"
    who = " by " + str(context["user"]) if context.get("user") else ""
    values = [
        ("Workflow", workflow["workflow_id"]),
        ("Created", f"{utc(seconds(workflow.get('created_at')))}{who}"),
        ("Host", context.get("host") or workflow.get("origin_host") or facts.agent.get("host")),
        ("Directory", context.get("cwd")),
        ("Git commit", commit),
        ("Properties", properties(workflow.get("meta"))),
        ("lwfm", versions),
        ("Report made", f"{utc(facts.made_at)} UTC"),
    ]
    listed = "".join(f"<dt>{label}</dt><dd>{clean(value)}</dd>" for label, value in values if value)
    description = workflow.get("description")
    told = f'<p class="about">{clean(description)}</p>' if description else ""
    return f'{told}<dl class="facts">{listed}</dl>'


def _totals(facts: Facts) -> str:
    counts = facts.counts
    rows = [[state_cell(state), number(f"{counts[state]:,}")] for state in in_order(counts)]
    rows.append([("all", ""), number(f"{len(facts.jobs):,}")])
    states = table((("State", ""), ("Jobs", "n")), rows, "Jobs by state", "small")
    if not facts.runs:
        return f"<p>{'No job has started yet.' if facts.jobs else 'This workflow has no jobs.'}</p>{states}"
    largest = max(facts.runs, key=lambda run: run.peak_rss_bytes)
    used, there = facts.core_seconds, facts.core_seconds_there
    share = f" ({100 * used / there:.0f}%)" if there else ""
    going_on = any(run.going_on for run in facts.runs)
    cards = [
        (duration(facts.wall_s), "wall time, first start to " + ("now" if going_on else "last end")),
        (f"{used:,.1f}", f"core-seconds used{share}"),
        (f"{there:,.1f}", f"core-seconds available{_on_how_many(facts)}"),
        (f"{sum(run.cpu_seconds for run in facts.runs):,.1f}", "CPU seconds measured"),
    ]
    if largest.peak_rss_bytes:
        of = clean(largest.job.get("name") or short(largest.job["job_id"]), 40)
        cards.append((size(largest.peak_rss_bytes), f"peak memory of one job, {of}"))
    listed = "".join(f"<li><b>{value}</b><span>{label}</span></li>" for value, label in cards)
    return f'<ul class="cards">{listed}</ul>{_remarks(facts)}{states}'


def _on_how_many(facts: Facts) -> str:
    count = sum(node.placed for node in facts.nodes)
    return f" on {plural(count, 'node')}" if count else ""


def _remarks(facts: Facts) -> str:
    """What is not exact in the numbers, and why."""
    told = (
        "Core-seconds used: the cores each job asked for (one where it did not say) of each of its nodes times how long"
        " it ran. Available:"
        " the cores of all nodes times how long each was there."
    )
    remarks = [told]
    gone = sum(node.placed and not node.known for node in facts.nodes)
    if gone:
        remarks.append(
            f"{plural(gone, 'node')} of which no record tells when it was there: taken to have been there all the time,"
            " with as many cores as were in use at once."
        )
    unplaced = sum(not run.placed for run in facts.runs)
    if unplaced:
        remarks.append(
            f"It is not known on which node {plural(unplaced, 'run')} took place: drawn by site, with as many cores"
            " taken to be available as were in use at once."
        )
    if facts.untold:
        remarks.append(f"Earlier attempts of {plural(facts.untold, 'job')} are left out.")
    if facts.skewed:
        remarks.append(
            f"{plural(facts.skewed, 'run')} ended before the start, by the clocks: counted as lasting 0 s."
            " The clocks of hosts disagree, and other times here may be off as well."
        )
    return "".join(f'<p class="soft">{remark}</p>' for remark in remarks)


def _on_nodes(facts: Facts) -> str:
    if not facts.runs:
        return "<p>No job has started yet.</p>"
    picture, how = jobs_on_nodes(facts)
    states = in_order({run.state for run in facts.runs})
    legend = "".join(f"<li>{state_key(state)}{escape(state)}</li>" for state in states)
    when = f"From {utc(facts.start)} to {utc(facts.end)} UTC."
    return (
        f'<ul class="legend">{legend}</ul><figure><div class="wide">{picture}</div>'
        f"<figcaption>{when} {how}</figcaption></figure>"
    )


def _levels(facts: Facts) -> str:
    """What went on at once: jobs, cores, memory."""
    if not facts.runs:
        return "<p>No job has started yet.</p>"

    def over_time(spans: Iterable[charts.Span]) -> charts.Levels:
        return charts.levels(spans, facts.start, facts.end, LEVEL_BINS)

    def whole(value: float) -> str:
        return f"{value:,.0f}"

    jobs = over_time(run.span._replace(weight=1.0) for run in facts.whole_runs)
    cores = over_time(run.span for run in facts.runs)
    memory = over_time(run.span._replace(weight=float(run.peak_rss_bytes)) for run in facts.runs)
    available = over_time(span for node in facts.nodes for span in node.there)
    there = available.peak
    title = f"Running jobs over time, at most {jobs.peak:,.0f}"
    parts = [_figure(title, level_picture(title, facts, jobs, charts.whole_ticks(jobs.peak), whole, unit="jobs"))]
    title = f"Cores in use over time, at most {cores.peak:,.0f} of {there:,.0f}"
    marks = charts.whole_ticks(max(there, cores.peak))
    picture = level_picture(title, facts, cores, marks, whole, unit="cores", bound=available, bound_name="available")
    parts.append(_figure(title, picture))
    title = f"Memory over time: an upper estimate, at most {size(round(memory.peak))}"
    if memory.peak:
        marks = charts.ticks(memory.peak, binary=True)
        picture = level_picture(title, facts, memory, marks, lambda value: size(round(value)), unit="memory")
    else:
        picture = "<p>No memory was measured.</p>"
    note = (
        "The sum of the peak memory (resident) of the jobs that ran at that moment. Jobs do not all reach their peak at"
        " once, so this is an upper estimate for the jobs that were measured; jobs that still run, and very short ones,"
        " have no measurement and are not in it."
    )
    parts.append(_figure(title, picture, note))
    bin_s = facts.wall_s / LEVEL_BINS
    how = f"The area is the average over {duration(bin_s)}, the line the most within it."
    return f'<p class="soft">{how}</p>{"".join(parts)}'


def _figure(title: str, picture: str, note: str = "") -> str:
    told = f"<figcaption>{note}</figcaption>" if note else ""
    return f'<h3>{escape(title)}</h3><figure><div class="wide">{picture}</div>{told}</figure>'


def _slowest(facts: Facts) -> str:
    runs = sorted(facts.whole_runs, key=lambda run: -run.length_s)[:SLOWEST]
    if not runs:
        return "<p>No job has started yet.</p>"
    titles = (("Job", ""), ("Name", ""), ("State", ""), ("Node", ""), ("Time", "n"), ("CPU", "n"), ("Memory", "n"))
    return table(titles, map(_slow_row, runs), f"The {len(runs)} longest of {len(facts.whole_runs):,} runs")


def _slow_row(run: Run) -> list[Cell]:
    state, kind = state_cell(run.state)
    attempt = f" (attempt {run.attempt})" if run.attempt > 1 or run.job.get("attempt", 1) > 1 else ""
    return [
        (identifier(run.job["job_id"]), ""),
        (clean(run.job.get("name", ""), NAME_LENGTH) + attempt, ""),
        (state, kind),
        (clean(run.lane), ""),
        number(duration(run.length_s) + (" so far" if run.going_on else "")),
        number(duration(run.cpu_seconds) if run.cpu_seconds else ""),
        number(size(run.peak_rss_bytes) if run.peak_rss_bytes else ""),
    ]


def _failed(facts: Facts) -> str:
    count = facts.counts["FAILED"]
    if not count:
        return "<p>None.</p>"
    rows = [[(clean(reason, REASON_LENGTH), ""), number(f"{jobs:,}")] for reason, jobs in facts.reasons[:REASONS]]
    if len(facts.reasons) > REASONS:
        rest = sum(jobs for _, jobs in facts.reasons[REASONS:])
        rows.append([(f"{len(facts.reasons) - REASONS:,} other reasons", ""), number(f"{rest:,}")])
    told = f"{count:,} of {len(facts.jobs):,} jobs failed"
    reasons = table((("Reason", ""), ("Jobs", "n")), rows, told, "small")
    caption = (
        f"The first {LISTED_FAILURES} that failed" if count > LISTED_FAILURES else "In the order in which they failed"
    )
    listed = "".join(
        f'<tr class="first"><td>{identifier(job["job_id"])}</td><td>{clean(job.get("name", ""), NAME_LENGTH)}</td>'
        f'<td class="s">{utc(seconds(job.get("ended_at")))}</td><td>{clean(job.get("host", ""))}</td>'
        f'<td>{clean(why(job), REASON_LENGTH)}</td></tr>\n<tr class="more"><td colspan="5">'
        f'<code title="{clean(job.get("command", ""), 2000)}">{clean(job.get("command", ""), COMMAND_LENGTH)}</code>'
        f"{_stderr(failure.stderr, failure.missing)}</td></tr>\n"
        for failure in facts.failures
        for job in (failure.job,)
    )
    head = "".join(f'<th scope="col">{title}</th>' for title in ("Job", "Name", "Ended", "Node", "Why"))
    return (
        f'{reasons}<div class="wide"><table><caption>{caption}, each with the last lines of its standard error</caption>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{listed}</tbody></table></div>"
    )


def _stderr(text: str, missing: str) -> str:
    if missing:
        return f'<p class="soft">Standard error: {clean(missing)}</p>'
    if not text:
        return '<p class="soft">Nothing on standard error.</p>'
    return f'<pre aria-label="standard error">{escape(text)}</pre>'


def _data(facts: Facts) -> str:
    if not facts.data:
        return "<p>No data was put.</p>"
    rows = (
        [
            (clean(sheet.get("path") or sheet.get("url") or sheet["data_id"]), ""),
            number(size(sheet.get("size_bytes"))),
            (clean(sheet.get("host") or sheet.get("site") or ""), ""),
            (clean(properties(sheet.get("properties")), PROPERTIES_LENGTH), ""),
            (identifier(sheet["job_id"]) if sheet.get("job_id") else "", ""),
        ]
        for sheet in facts.data
    )
    titles = (("Data", ""), ("Size", "n"), ("Host", ""), ("Properties", ""), ("By job", ""))
    return table(titles, rows, f"{_counted(facts.data_count)} put{_first(facts.data_count, LISTED_DATA)}")


def _counted(count: int) -> str:
    return f"{count:,} or more" if count >= COUNTED else f"{count:,}"


def _first(count: int, listed: int) -> str:
    return f"; the first {listed}" if count > listed else ""


def _handlers(facts: Facts) -> str:
    if not facts.handlers:
        return "<p>None were set.</p>"
    rows = (
        [
            (identifier(item["handler_id"]), ""),
            (clean(item.get("state", "")), ""),
            number(str(item.get("fired", 0))),
            (clean(_when(item), REASON_LENGTH), ""),
            (clean(_then(item.get("event") or {}), COMMAND_LENGTH), ""),
        ]
        for item in facts.handlers
    )
    titles = (("Handler", ""), ("State", ""), ("Fired", "n"), ("When", ""), ("Then", ""))
    return table(titles, rows, f"{_counted(facts.handler_count)} set{_first(facts.handler_count, LISTED_HANDLERS)}")


def _when(item: JSON) -> str:
    event = item.get("event") or {}
    if item.get("kind") == "data":
        return f"data with {properties(event.get('match'))}"
    jobs = list(event.get("jobs") or ())
    which = f"job {short(str(jobs[0]))}" if len(jobs) == 1 else f"{event.get('mode', 'all')} of {len(jobs)} jobs"
    return f"{which} {' or '.join(event.get('states') or ['COMPLETE'])}"


def _then(event: JSON) -> str:
    if event.get("notify"):
        return f"tell {event['notify'].get('url') or event['notify'].get('command')}"
    command = (event.get("defn") or {}).get("command", "")
    return command if isinstance(command, str) else " ".join(map(str, command))


def _jobs(facts: Facts) -> str:
    if not facts.jobs:
        return "<p>None.</p>"
    listed = facts.jobs[:LISTED_JOBS]
    titles = (("Job", ""), ("Name", ""), ("State", ""), ("Node", ""), ("Submitted", ""), ("Time", "n"), ("Why", ""))
    told = table(titles, (_job_row(job, facts.made_at) for job in listed))
    if len(facts.jobs) > LISTED_JOBS:
        command = f"lwfm job list --limit 0 --workflow {short(facts.workflow['workflow_id'])}"
        told += f'<p class="soft">These are the first {LISTED_JOBS:,}. All: <code>{escape(command)}</code></p>'
    is_open = " open" if len(listed) <= OPEN_JOBS else ""
    return (
        f"<details{is_open}><summary>{plural(len(listed), 'job')} in the order of submission</summary>{told}</details>"
    )


def _job_row(job: JSON, now: float) -> list[Cell]:
    started, ended = seconds(job.get("started_at")), seconds(job.get("ended_at"))
    length = None
    if started is not None and job["state"] not in ("READY", "PENDING"):
        until = ended if ended is not None or job["state"] in TERMINAL else now
        length = None if until is None else max(0.0, until - started)
    return [
        (identifier(job["job_id"]), ""),
        (clean(job.get("name", ""), NAME_LENGTH), ""),
        state_cell(job["state"]),
        (clean(job.get("host", "")), ""),
        (utc(seconds(job.get("submitted_at"))), "s"),
        number(duration(length)),
        (clean(why(job), REASON_LENGTH), "w" if why(job) else ""),
    ]

"""Draw what a run did: what came in, what was decided, what it cost, how fresh it was, which items get seen, by which settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from streamrec.report.facts import Decided, Exposure, Report, Shares, Spread, Z
from streamrec.report.parts import NUMBER, Column, card, facts, folded, legend, note, scrolled, table
from streamrec.report.plots import Axes, Stroke, Whisker, bar, lines, whiskers
from streamrec.report.words import NOTHING, moment, percent, percent_text, seconds, seconds_text, signed, text, three, tick_text, whole

MOST_DRAWN = 200
"""Decisions in the picture, the newest; the table has all."""

_BOOKS = {
    "applied": ("learned", "c1"),
    "duplicate": ("known already", "c7"),
    "rejected": ("dead letters", "c5"),
    "late": ("too old", "c3"),
    "quarantined": ("taken back", "c4"),
    "lost": ("had left the log", "c8"),
}
_UNITS = ((86_400, "days"), (3_600, "hours"), (60, "minutes"))
_VERDICTS = {"promote": "promoted", "reject": "rejected", "wait": "waits", "rollback": "rolled back"}
_OUTSIDE = {
    "state_ms_p50": ("State freshness, median", 1e-3),
    "state_ms_p99": ("State freshness, 99 %", 1e-3),
    "model_s_p50": ("Model freshness, median", 1.0),
    "model_s_p95": ("Model freshness, 95 %", 1.0),
}


def came_in(report: Report) -> str:
    """Return the books, and how they grew."""
    title, lead = "What came in", "Every record that was read is booked once; the parts sum to the whole."
    found = report.came_in
    if found is None:
        return card(title, lead, note(report.missing.get("came_in", "not recorded")))
    received = found.books["received"]
    columns = [Column("Records"), Column("", "picture"), Column("Number", NUMBER), Column("Share", NUMBER)]
    rows = []
    for name, (words, css) in _BOOKS.items():
        if name in found.books:
            num = found.books[name]
            shown = f'{text(name.capitalize())} <span class="soft less">{text(words)}</span>'
            rows.append([shown, bar(num, received, css), whole(num), percent(num / received if received else None)])
    rows.append(["Received", bar(received, received, "c2"), whole(received), percent(1.0 if received else None)])
    kept = [("Users with a history", whole(found.num_users)), ("Items with a row", whole(found.num_items))]
    if found.quarantine.get("ranges"):
        kept.append(("Quarantined", f"{whole(found.quarantine['events'])} events in {whole(found.quarantine['ranges'])} ranges"))
    known = facts(pair for pair in kept if pair[1] != NOTHING)
    return card(title, lead, table("Books", columns, rows), known if report.kind == "run" else "", _growth(report))


def _growth(report: Report) -> str:
    course = report.course
    if course is None or len(course.at_ms) < 2 or course.at_ms[-1] <= course.at_ms[0]:
        return ""
    begin, times = course.at_ms[0], [(at - course.at_ms[0]) / 1000 for at in course.at_ms]
    unit_s, unit = next(((size, name) for size, name in _UNITS if times[-1] >= 2 * size), (1, "seconds"))
    stroke = Stroke("Read", "c1", [float(num) for num in course.at], is_main=True)
    axes = Axes("Records read over time", f"{unit} since the first step", lambda x: f"{x:,.4g}", lambda y: f"{y:,.0f}", 190, from_zero=True)
    picture = lines(axes, [time / unit_s for time in times], [stroke], size="half")
    rows = [[moment(at), whole(num)] for at, num in _some(list(zip(course.at_ms, course.at, strict=True)))]
    shown = table("Records read by time", [Column("Until (UTC)"), Column("Records read", NUMBER)], rows)
    return f"<h3>Over time</h3><p>From {moment(begin)} UTC.</p><figure>{picture}</figure>{folded('Show the growth as a table', shown)}"


def _some(found: Sequence[Any], most: int = 24) -> Sequence[Any]:
    step = max(1, -(-len(found) // most))
    return [one for place, one in enumerate(found) if (len(found) - 1 - place) % step == 0]


def decisions(report: Report) -> str:
    """Return each decision with its reason and numbers."""
    title = "Promotions and other decisions"
    lead = "A version goes live when it is not measurably worse than the live one at events that neither had learned from."
    if not report.decisions:
        return card(title, lead, note(report.missing.get("decisions", "nothing was decided yet")))
    counts = {name: sum(one.verdict == name for one in report.decisions) for name in _VERDICTS}
    said = ", ".join(f"{num} {_VERDICTS[name]}" for name, num in counts.items() if num)
    scored = [one for one in report.decisions if one.numbers.get("difference") is not None and one.live is not None]
    inside = f'<p class="small">{text(said)}, of those that the registry still knows.</p>'
    if scored:
        inside += f"<figure>{_drawn(scored[-MOST_DRAWN:], len(scored))}</figure>"
    return card(title, lead, inside, scrolled("Decisions", _table(report.decisions)))


def _drawn(scored: Sequence[Decided], num: int) -> str:
    found = [
        Whisker(one.numbers["difference"] or 0.0, Z * (one.numbers.get("standard_error") or 0.0), one.verdict, one.numbers.get("allowed"))
        for one in scored
    ]
    of = f", the newest {len(scored)} of {num}" if len(scored) < num else ""
    title = f"Candidate less live version, Recall@20, with its 95 % range, decision by decision{of}"
    picture = whiskers(Axes(title, "decisions, oldest first", lambda x: f"{x:.0f}", tick_text, 240, is_whole=True), found)
    keys = [Stroke("promoted", "promote", ()), Stroke("rejected", "reject", ()), Stroke("waits", "wait", ())]
    verdicts = {one.verdict for one in scored}
    shown = [key for key in keys if key.css in verdicts]
    counts = [whole(sum(one.verdict == key.css for one in scored)) for key in shown]
    least = '<p class="small soft">Red strokes: the least that was allowed.</p>'
    return f"<h3>{text(title)}</h3>{legend('Decisions drawn', shown, counts)}{picture}{least}"


def _table(found: Sequence[Decided]) -> str:
    has_several = len({one.student for one in found}) > 1
    student = [Column("Student")] if has_several else []
    columns = [Column("Version", "whole"), *student, Column("Verdict", "verdict"), Column("When (UTC)", "whole less")]
    columns += [*(Column(name, NUMBER) for name in ("Candidate", "Live", "Difference", "±", "Queries")), Column("Why", "long")]
    return table("Decisions, newest first", columns, [_row(one, has_several) for one in reversed(found)])


def _row(one: Decided, has_several: bool) -> list[str]:
    get = one.numbers.get
    error = get("standard_error")
    scores = [three(get("candidate")), three(get("live") if one.live is not None else None)]
    paired = [signed(get("difference")), three(None if error is None else Z * error)] if one.live is not None else [NOTHING, NOTHING]
    verdict = f'<span class="{text(one.verdict)}">{text(_VERDICTS.get(one.verdict, one.verdict))}</span>'
    student = [text(one.student)] if has_several else []
    return [text(one.version), *student, verdict, moment(one.at_ms), *scores, *paired, whole(get("num_queries")), text(one.reason)]


def costs(report: Report) -> str:
    """Return what stages took."""
    title, found = "Cost of each stage", report.costs
    lead = "Wall time within steps; what is done beside them, as most of a commit, is not in it."
    total = 0.0 if found is None else sum(found.seconds.values())
    if found is None or not total:
        return card(title, lead, note(report.missing.get("costs", "not recorded")))
    columns = [Column("Stage"), Column("", "picture"), Column("Time", NUMBER), Column("Share", NUMBER)]
    most = max(found.seconds.values())
    per_step = found.num_steps > 0
    rows = [[text(name), bar(value, most, "c1"), seconds(value), percent(value / total)] for name, value in found.seconds.items()]
    rows.append(["All", "", seconds(total), percent(1.0)])
    if per_step:
        columns.append(Column("A step", NUMBER))
        rows = [[*row, seconds(value / found.num_steps)] for row, value in zip(rows, [*found.seconds.values(), total], strict=True)]
        lead = f"{found.num_steps:,} steps that are committed. {lead}"
    return card(title, lead, table("Time of each stage", columns, rows), _refreshes(report))


def _refreshes(report: Report) -> str:
    found = report.costs.refreshes if report.costs is not None else ()
    if not found:
        return ""
    columns = [Column("Teacher"), Column("Version", "whole"), Column("", "picture"), Column("Time", NUMBER), Column("Workers", f"{NUMBER} less")]
    most = max((one.seconds or 0.0) for one in found)
    rows = [[text(one.teacher), text(one.version), bar(one.seconds, most, "c4"), seconds(one.seconds), whole(one.num_workers)] for one in found]
    return f"<h3>Refreshes of teachers</h3><p>Of the versions that are kept.</p>{table('Refreshes', columns, rows)}"


def freshness(report: Report) -> str:
    """Return how old things were."""
    found = report.freshness
    lead = "How long it takes until an event counts. Of a backlog that is caught up with, the wait is the backlog's."
    if report.kind == "backtest":
        return card("Freshness", lead, note(report.missing.get("learned", "not recorded")))
    parts = []
    for name, words, spread in (
        ("From the log to learned", "From a record's time in the log to the end of the step that learned from it.", found.learned),
        ("From made to live", "From a version's making to its promotion: what the gate took.", found.promoted),
    ):
        shown = _spread(name, spread) if spread is not None else note(report.missing.get("learned", "not recorded"))
        parts.append(f"<div><h3>{text(name)}</h3><p class='small soft'>{text(words)}</p>{shown}</div>")
    outside = {name: value for name, value in found.outside.items() if name in _OUTSIDE and value is not None}
    if outside:
        pairs = [(words, seconds(outside[name] * factor)) for name, (words, factor) in _OUTSIDE.items() if name in outside]
        words = "From an acknowledged event to the first answer that it changed: through the history, and through the weights."
        beside = f"<h3>As clients saw it</h3><p>{words}</p>{facts(pairs)}"
    else:
        beside = f"<h3>As clients saw it</h3>{note(report.missing.get('outside', 'not recorded'))}"
    return card("Freshness", lead, f'<div class="inner">{"".join(parts)}</div>', beside)


def _spread(name: str, spread: Spread) -> str:
    total, most = sum(spread.counts), max(spread.counts)
    edges = [f"up to {seconds_text(bound)}" for bound in spread.bounds_s] + ["longer"]
    used = [place for place, num in enumerate(spread.counts) if num]
    columns = [Column("Wait", "whole"), Column("", "picture"), Column("Number", NUMBER), Column("Share", NUMBER)]
    rows = [
        [text(edges[place]), bar(spread.counts[place], most, "c1"), whole(spread.counts[place]), percent(spread.counts[place] / total)]
        for place in range(used[0], used[-1] + 1)
    ]
    quantiles = ", ".join(f"{name} {seconds(value) if value is not None else 'longer'}" for name, value in spread.quantiles_s.items())
    return f"{table(name, columns, rows)}<p class='small'>{quantiles}</p>"


def exposure(report: Report) -> str:
    """Return which items get seen."""
    title, found = "Coverage and exposure", report.exposure
    lead = "Whether many items get seen, or always the same few."
    if found is None:
        return card(title, lead, note(report.missing.get("exposure", "not recorded")), _worth(report.worth, report.missing))
    asked = f"as this report was made, {found.version} was asked for twenty items for each of {found.num_histories:,} users"
    lead = f"{lead[:-1]}: {asked} of {found.namespace}."
    sides = {"Recommended": found.recommended, "Used of late": found.used}
    known = {name: side for name, side in sides.items() if side is not None}
    columns = [Column("What"), *(Column(name, NUMBER) for name in known)]
    rows = [[words, *(show(side) for side in known.values())] for words, show in _SHARES]
    of = f'<p class="small soft">Of {whole(found.num_items)} items.</p>'
    beside = f"<div>{table('Coverage and exposure', columns, rows)}{of}{_top(found)}</div>"
    return card(title, lead, f'<div class="inner"><div>{_lorenz(known)}</div>{beside}</div>', _worth(report.worth, report.missing))


_SHARES: tuple[tuple[str, Callable[[Shares], str]], ...] = (
    ("Coverage: share of all items", lambda side: percent(side.coverage)),
    ("Places that went to the first 1 % of items", lambda side: percent(side.top_1)),
    ("Places that went to the first 10 %", lambda side: percent(side.top_10)),
    ("Gini: 0 is even, 1 is one item", lambda side: three(side.gini)),
    ("Items seen", lambda side: whole(side.num_items)),
    ("Places", lambda side: whole(side.num_places)),
)


def _lorenz(sides: Mapping[str, Shares]) -> str:
    xs = [100 * place / 20 for place in range(21)]
    looks = {"Recommended": ("c1", "", True), "Used of late": ("c3", "5 4", False)}
    strokes = [Stroke(name, looks[name][0], side.lorenz, dash=looks[name][1], is_main=looks[name][2]) for name, side in sides.items()]
    strokes.append(Stroke("If all got as much", "c7", [x / 100 for x in xs], dash="2 3"))
    title = "Share of places that went to the first items"
    axes = Axes(title, "% of items, those with most first", lambda x: f"{x:.0f}", percent_text, 260, from_zero=True, most=1.0, is_whole=True)
    picture = lines(axes, xs, strokes, size="half")
    values = [percent(side.lorenz[2]) for side in sides.values()] + [percent_text(0.1)]
    rows = [[f"{x:.0f} %", *(percent(side.lorenz[place]) for side in sides.values())] for place, x in enumerate(xs)]
    shown = table(title, [Column("Items"), *(Column(name, NUMBER) for name in sides)], rows)
    first = '<p class="small soft">Figures of the legend: what the first tenth of items got.</p>'
    return f"{legend('Share of the first tenth', strokes, values)}<figure>{picture}</figure>{first}{folded('Show the curve as a table', shown)}"


def _top(found: Exposure) -> str:
    columns = [Column("Item"), Column("Of answers", NUMBER)]
    names = [text(one.item) if not one.title else f'{text(one.title)} <span class="soft">{text(one.item)}</span>' for one in found.top]
    rows = [[name, percent(one.share)] for name, one in zip(names, found.top, strict=True)]
    return folded("The items recommended most", table("Items recommended most", columns, rows))


def _worth(rows: Sequence[Mapping[str, Any]], missing: Mapping[str, str]) -> str:
    head = "<h3>What answers came to</h3>"
    if not rows:
        return f"{head}{note(missing.get('worth', 'not recorded'))}"
    numbers = [Column(name, NUMBER) for name in ("Taken", "Of shown", "Share")]
    columns = [Column("Version", "whole"), Column("Source"), Column("", "picture"), *numbers]
    most = max(row["high"] or 0.0 for row in rows)
    found = [
        [
            text(row["model_version"]),
            text(row["source"]),
            bar(row["rate"], most, "c1", row["low"], row["high"]),
            whole(row["taken"]),
            whole(row["shown"]),
            percent(row["rate"]),
        ]
        for row in rows
    ]
    said = "<p>Answers that were logged, and whether the user took something that was shown.</p>"
    return f"{head}{said}{scrolled('Worth', table('Worth of answers', columns, found))}"


def settings(report: Report) -> str:
    """Return the configuration and the versions of the code."""
    about = facts((name.removesuffix("_ms").replace("_", " ").capitalize(), _said(name, value)) for name, value in report.about.items())
    names = {"streamrec": "streamrec, of this report", "run": f"streamrec, of the {report.kind}"}
    versions = facts((names.get(name, name), text(value)) for name, value in report.versions.items())
    inside = f'<div class="inner"><div><h3>What this is of</h3>{about}</div><div><h3>Versions</h3>{versions}</div></div>'
    if report.config:
        rows = [[text(name), f"<code>{text(value)}</code>"] for name, value in flat(report.config)]
        inside += folded(f"Every setting ({len(rows)})", table("Settings", [Column("Setting"), Column("Value")], rows))
    else:
        inside += note(f"settings: {report.missing.get('config', 'not recorded')}")
    return card("Configuration and versions", "As the live version was made; what is secret is not in it.", inside)


def _said(name: str, value: Any) -> str:
    if name.endswith("_ms"):
        return f"{moment(value)} UTC"
    return whole(value) if isinstance(value, int) else text(value)


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Give settings with their whole names, as ``--set`` takes them.

    Example:
        >>> list(flat({"student": {"dim": 8}, "seed": 0}))
        [('student.dim', '8'), ('seed', '0')]
    """
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", "" if value is None else str(value)

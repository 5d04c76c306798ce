"""Draw how models learned: curves, student against teachers and baselines, what teachers add, what is forgotten."""

from __future__ import annotations

from collections.abc import Iterable

from streamrec.config.teacher_names import CONTROL, STUDENT
from streamrec.report.facts import LEAST_QUERIES, METRIC, Course, Line, Mark, Report, Score, Z
from streamrec.report.parts import NUMBER, Column, card, facts, folded, legend, note, table
from streamrec.report.plots import Axes, Flag, Stroke, bar, lines
from streamrec.report.words import data, model_name, moment, percent_text, signed, signed_text, text, three, tick_text, whole

_COLORS = ("c3", "c4", "c5", "c6", "c8")
_FIXED = {
    STUDENT: Stroke("", "c1", (), is_main=True),
    CONTROL: Stroke("", "c2", (), dash="5 4"),
    "popular": Stroke("", "c7", (), dash="2 3"),
    "recent_popular": Stroke("", "c7", ()),
    "own_history": Stroke("", "c8", (), dash="7 3 2 3"),
}
_MOST_ROWS = 24
_KEPT = (("la", "LA"), ("ra", "RA"), ("h_mean", "H"))
_MARKS = {"rollback": "rolled back", "refresh": "refreshed"}


def looks(models: Iterable[str]) -> dict[str, Stroke]:
    """Return colour and dash of each model; the same in all pictures of a report."""
    found, free = {}, 0
    for model in models:
        found[model] = _FIXED.get(model) or Stroke("", _COLORS[free % len(_COLORS)], ())
        free += model not in _FIXED
    return found


def verdict(report: Report) -> str:
    """Return in one sentence how it went."""
    scores = {score.model: score.metrics[METRIC] for score in report.scores}
    student = scores.get(STUDENT)
    if student is None:
        return "Nothing was evaluated yet"
    if next(score.num_queries for score in report.scores if score.model == STUDENT) < LEAST_QUERIES:
        return "Too few queries yet to say whether the student is better than what is popular"
    rivals = [(value, name) for name, value in scores.items() if name in {"popular", "recent_popular"}]
    better = "The student is better than what is popular" if rivals and student > max(rivals)[0] else "The student is not better than what is popular"
    gain = report.gain
    if gain is None:
        return better
    if gain.error is None:
        return f"{better}, {'and teachers add to it' if gain.mean > 0 else 'and teachers add nothing'}"
    if abs(gain.mean) <= Z * gain.error:
        return f"{better}; what teachers add is within chance"
    return f"{better}, {'and teachers help' if gain.mean > 0 else 'and teachers do harm'}"


def curves(report: Report) -> str:
    """Return the learning curves, with bands and with what happened."""
    title = "Learning curves"
    lead = "Recall@20: how often the item that came next was among the first twenty, each event foretold before it was learned."
    course = report.course
    if course is None:
        return card(title, lead, note(report.missing.get("course", "not recorded")))
    by_model = looks(line.model for line in course.lines)
    strokes = [_stroke(line, by_model[line.model]) for line in course.lines]
    is_run = course.scale == "events"
    of = "events read so far" if is_run else "test blocks"
    axes = Axes(f"Recall@20 of each model over {of}", of, lambda x: f"{x:,.0f}", lambda y: f"{y:.2f}", 340, from_zero=True, is_whole=True)
    marks = " Ticks at the bottom are promotions, dotted lines the first labels of a new teacher." if course.marks else ""
    newest = [three(next((value for value in reversed(line.mean) if value is not None), None)) for line in course.lines]
    said = f"{lead} The bands hold 95 % of chance, as if queries were independent.{marks}"
    picture = lines(axes, course.at, strokes, _flags(course.marks))
    return card(title, said, legend("Newest values", strokes, newest), f"<figure>{picture}</figure>", _rows(course))


def _stroke(line: Line, look: Stroke) -> Stroke:
    return Stroke(model_name(line.model), look.css, line.mean, line.low, line.high, look.is_main, look.dash)


def _flags(marks: Iterable[Mark]) -> list[Flag]:
    """Return what is drawn of marks: of what happened at one place, one line that names all."""
    found: dict[tuple[float, str], list[str]] = {}
    for mark in marks:
        found.setdefault((mark.at, mark.kind), []).append(mark.what.partition(" ")[0])
    return [Flag(at, "" if kind == "promote" else f"{', '.join(dict.fromkeys(names))} {_MARKS[kind]}", kind) for (at, kind), names in found.items()]


def _rows(course: Course) -> str:
    """Return the points as a table, evenly spread where there are many."""
    step = max(1, -(-len(course.at) // _MOST_ROWS))
    places = [place for place in range(len(course.at)) if (len(course.at) - 1 - place) % step == 0]
    is_run = course.scale == "events"
    when = [Column("Until (UTC)", "whole")] if course.at_ms else []
    columns = [Column("Events read" if is_run else "Block", NUMBER), *when, Column("Queries", NUMBER)]
    columns += [Column(model_name(line.model), NUMBER) for line in course.lines]
    rows = []
    for place in places:
        at = [moment(course.at_ms[place])] if course.at_ms else []
        scores = [f"{three(line.mean[place])}{_range(line, place)}" for line in course.lines]
        rows.append([whole(course.at[place]), *at, whole(course.num_queries[place]), *scores])
    every = "" if step == 1 else f", one point in {step}"
    return folded(f"Show as a table{every}", table(f"Recall@20 with its 95 % band{every}", columns, rows))


def _range(line: Line, place: int) -> str:
    low, high, mean = line.low[place], line.high[place], line.mean[place]
    return "" if low is None or high is None or mean is None or high <= low else f' <span class="soft">±{(high - low) / 2:.3f}</span>'


def rivals(report: Report) -> str:
    """Return how the student does against teachers and baselines."""
    title = "Student against teachers and baselines"
    means = "mean over the whole run" if report.kind == "run" else "mean of all blocks"
    lead = f"Recall@20, {means}, at events not yet learned; the line across a bar's end is its 95 % range."
    if not report.scores:
        return card(title, lead, note("nothing was evaluated yet"))
    by_model = looks(score.model for score in report.scores)
    most = max(score.metrics[METRIC] + Z * (score.error or 0.0) for score in report.scores)
    best_first = sorted(report.scores, key=lambda score: -score.metrics[METRIC])
    rows = [_score(score, most, by_model[score.model].css) for score in best_first]
    columns = [Column("Model"), Column("", "picture"), Column("Recall@20", NUMBER), Column("±", f"{NUMBER} less")]
    columns += [Column(name, f"{NUMBER} less") for name in ("MRR@20", "NDCG@20")]
    if report.kind == "run":
        columns.append(Column("Of late", NUMBER))
        rows = [[*row, three(score.recent)] for row, score in zip(rows, best_first, strict=True)]
    return card(title, lead, table("Scores of each model", columns, rows), f'<p class="small soft">{_queries(report)}</p>')


def _queries(report: Report) -> str:
    """Return how many queries the scores rest on, each model's where they differ."""
    if len({score.num_queries for score in report.scores}) == 1:
        return f"{whole(report.scores[0].num_queries)} queries, the same ones for all."
    return f"Queries: {', '.join(f'{text(model_name(score.model))} {whole(score.num_queries)}' for score in report.scores)}."


def _score(score: Score, most: float, css: str) -> list[str]:
    value, error = score.metrics[METRIC], score.error
    edges = (None, None) if error is None else (value - Z * error, value + Z * error)
    shown = [three(value), three(None if error is None else Z * error), three(score.metrics["mrr@20"]), three(score.metrics["ndcg@20"])]
    return [text(model_name(score.model)), bar(value, most, css, *edges), *shown]


def gain(report: Report) -> str:
    """Return what teachers add to the student."""
    title, lead = "What teachers add", "Recall@20 of the student, less that of the same student on events alone, query by query."
    found = report.gain
    if found is None:
        return card(title, lead, note("nothing is known: too few queries so far, or no teacher or no control is enabled"))
    pairs = [("Gain", f"<b>{signed(found.mean)}</b>")]
    if found.error is None:
        pairs.append(("Its error", "not recorded: a backtest does not print the paired differences"))
    else:
        low, high = found.mean - Z * found.error, found.mean + Z * found.error
        pairs += [("95 % range", f"{signed_text(low)} to {signed_text(high)}"), ("Standard error", data(found.error, f"{found.error:.4f}"))]
    pairs.append(("Queries", f"{whole(round(found.num_queries))}{', older ones count less' if report.kind == 'run' else ''}"))
    control = next((score.metrics[METRIC] for score in report.scores if score.model == CONTROL), None)
    if control:
        share = found.mean / control
        pairs.append(("In proportion", f"{percent_text(abs(share))} {'more' if share >= 0 else 'less'} than without"))
    return card(title, lead, _difference(report.course), facts(pairs))


def _difference(course: Course | None) -> str:
    """Draw the student less its control over the course; nothing where that is not known."""
    if course is None or course.gain is None or len(course.at) < 2:
        return ""
    stroke = Stroke("Gain", "c1", course.gain.mean, course.gain.low, course.gain.high, is_main=True)
    title = f"Recall@20 with teachers less without, over {'events read so far' if course.scale == 'events' else 'test blocks'}"
    axes = Axes(title, title.partition("over ")[2], lambda x: f"{x:,.0f}", tick_text, 190, has_zero=True, is_whole=True)
    return f"<figure>{lines(axes, course.at, [stroke], size='half')}</figure>"


def forgetting(report: Report) -> str:
    """Return what is kept of what was learned."""
    title = "Forgetting"
    lead = "LA: Recall@20 on a block right after it was learned. RA: on the same blocks after the last one. H: harmonic mean of both."
    if not report.forgetting:
        return card(title, lead, note(report.missing.get("forgetting", "not recorded")))
    columns = [Column("Model"), Column("What"), Column("", "picture"), Column("Recall@20", NUMBER)]
    most = max(value for found in report.forgetting.values() for value in found.values())
    rows = []
    for model, found in report.forgetting.items():
        css = looks([model])[model].css
        rows += [[text(model_name(model)), what, bar(found[name], most, css), three(found[name])] for name, what in _KEPT]
    return card(title, lead, table("Learning and retained accuracy", columns, rows))

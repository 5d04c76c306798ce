"""Put a report into one HTML file: no script, nothing of another host, and one report always gives the same bytes."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.resources import files

from streamrec.config.teacher_names import CONTROL, STUDENT
from streamrec.report import learning, running
from streamrec.report.facts import METRIC, Report, Z
from streamrec.report.parts import tiles
from streamrec.report.words import NOTHING, moment, percent, seconds, signed, text, three, whole

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def to_json(report: Report) -> str:
    """Return the report as one JSON object."""
    return json.dumps(asdict(report))


def to_html(report: Report) -> str:
    """Return the report as a page."""
    title = f"{report.name} · streamrec"
    style = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><title>{text(title)}</title><style>{style}</style>'
    )
    body = f"<main>{_header(report)}{''.join(_sections(report))}{_footer(report)}</main>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _sections(report: Report) -> list[str]:
    beside = f'<div class="two">{learning.gain(report)}{learning.forgetting(report)}</div>'
    if report.kind == "backtest":
        between = f'<div class="two">{running.came_in(report)}{running.costs(report)}</div>'
        return [learning.curves(report), learning.rivals(report), beside, between, running.settings(report)]
    between = f'<div class="two">{running.came_in(report)}{running.costs(report)}</div>'
    rest = [running.freshness(report), running.exposure(report), running.settings(report)]
    return [learning.curves(report), learning.rivals(report), beside, running.decisions(report), between, *rest]


def _header(report: Report) -> str:
    what = "A run" if report.kind == "run" else "A backtest"
    lead = f"{what}, as it stood when this was made: {moment(report.made_ms)} UTC."
    head = f'<p class="kicker">streamrec report · {text(report.name)}</p><h1>{text(learning.verdict(report))}</h1><p class="lead">{lead}</p>'
    return f"<header>{head}</header>{tiles(_tiles(report))}"


def _tiles(report: Report) -> list[tuple[str, str, str]]:
    scores = {score.model: score for score in report.scores}
    student, control = scores.get(STUDENT), scores.get(CONTROL)
    found = []
    if student is not None:
        value = student.metrics[METRIC]
        error = (
            f"±{three(Z * student.error)}, 95 %" if student.error is not None else f"of {whole(student.num_queries)} queries; its error is not known"
        )
        found.append(("Student’s Recall@20", three(value), error))
        rivals = [scores[name].metrics[METRIC] for name in ("popular", "recent_popular") if name in scores]
        best = max(rivals, default=0.0)
        found.append(("What is popular finds", three(best), f"the student finds {value / best:.1f}× as much" if best else "nothing yet"))
    gain = report.gain
    if gain is not None:
        error = f"±{Z * gain.error:.4f}, 95 %" if gain.error is not None else "beside the student without them"
        found.append(("Teachers add", signed(gain.mean), error))
    elif control is not None:
        found.append(("Teachers add", NOTHING, "not known yet"))
    if report.kind == "run":
        about = report.about
        promoted, rejected = about.get("versions promoted", 0), about.get("versions rejected", 0)
        found.append(("Versions promoted", whole(promoted), f"{whole(rejected)} rejected; {text(about.get('live version', 'none'))} is live"))
        if report.came_in is not None:
            books = report.came_in.books
            found.append(("Records read", whole(books["received"]), f"{whole(books['applied'])} learned"))
        learned = report.freshness.learned
        middle = None if learned is None else learned.quantiles_s["p50"]
        late = None if learned is None else learned.quantiles_s["p95"]
        found.append(("From the log to learned", seconds(middle), f"median; 95 % within {seconds(late)}" if learned is not None else "not recorded"))
    else:
        found.append(("Blocks", whole(report.about["blocks"]), f"{whole(report.about['queries'])} queries, {text(report.about['protocol'])}"))
    if report.exposure is not None:
        found.append(("Items recommended", percent(report.exposure.recommended.coverage), f"of {whole(report.exposure.num_items)}"))
    if report.costs is not None and report.costs.num_steps:
        total = sum(report.costs.seconds.values())
        found.append(("A step takes", seconds(total / report.costs.num_steps), f"{whole(report.costs.num_steps)} steps"))
    return found


def _footer(report: Report) -> str:
    made_by = f"Made by streamrec {text(report.versions.get('streamrec', ''))}."
    return f"<footer><p>{made_by} The same numbers for programs: <code>streamrec report --json</code>.</p></footer>"

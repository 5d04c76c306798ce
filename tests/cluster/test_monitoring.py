"""The alert rules and the dashboard against the code's own table of metrics: whatever they ask for is there, under that name and those labels."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Any, NamedTuple

import promql_parser
import pytest
import yaml

import streamrec
from streamrec.telemetry.table import BY_NAME, TABLE, Kind

CHECKOUT = Path(streamrec.__file__).parents[1]
ALERTS = yaml.safe_load((CHECKOUT / "cluster/prometheus/alerts.yaml").read_text())
DASHBOARD = json.loads((CHECKOUT / "cluster/grafana/streamrec.json").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
QUERIES = [
    *((rule["alert"], rule["expr"]) for rule in RULES),
    *((panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel.get("targets", [])),
]
VALUES = {
    "outcome": {
        "streamrec_events_total": {"applied", "duplicate", "rejected", "late", "quarantined", "lost"},
        "streamrec_versions_total": {"published", "promoted", "rejected"},
        "streamrec_refreshes_total": {"started", "used", "failed"},
        "streamrec_swaps_total": {"swapped", "refused"},
        "streamrec_worth_answers": {"taken", "passed"},
    },
    "source": {"streamrec_answers_total": {"student", "popular"}, "streamrec_told_age_seconds": {"stream"}},
    "route": {"streamrec_requests_total": {"recommend"}, "streamrec_request_seconds": {"recommend"}},
    "column": {"streamrec_books_records": {"quarantined"}},
    "measure": {"streamrec_score": {"recall@20"}},
}
"""What the label values mean that are asked for by name."""


class Asked(NamedTuple):
    name: str
    labels: dict[str, str]


def selectors(expression: Any) -> Iterator[Asked]:
    """Whatever an expression reads."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield Asked(expression.name, {one.name: one.value for one in expression.matchers.matchers})
    for part in ("vector_selector", "expr", "lhs", "rhs"):
        if (inner := getattr(expression, part, None)) is not None:
            yield from selectors(inner)
    for inner in getattr(expression, "args", None) or []:
        yield from selectors(inner)


def metric_of(name: str) -> str:
    """A metric's name in the table; a histogram has three series."""
    bare = re.sub(r"_(bucket|sum|count)$", "", name)
    return bare if bare in BY_NAME and BY_NAME[bare].kind is Kind.HISTOGRAM else name


@pytest.mark.parametrize(("title", "query"), QUERIES, ids=lambda one: str(one)[:60])
def test_a_query_asks_for_metrics_and_labels_that_are_there(title: str, query: str) -> None:
    asked = list(selectors(promql_parser.parse(query)))
    assert asked, title
    assert len(asked) == len(re.findall(r"\bstreamrec_\w+", query))
    for name, labels in asked:
        metric = BY_NAME[metric_of(name)]
        assert set(labels) <= set(metric.labels)
        for label, value in labels.items():
            if label != "status":
                assert value in VALUES[label][metric.name], f"{title}: {name} has no {label} {value}"
        if metric.kind is Kind.COUNTER:  # Its value since the start says nothing.
            assert re.search(rf"(rate|increase)\({name}\b", query), f"{title}: {name} is a counter"


def test_the_dashboard_shows_every_metric() -> None:
    shown = {
        metric_of(name) for panel in DASHBOARD["panels"] for each in panel.get("targets", []) for name in re.findall(r"streamrec_\w+", each["expr"])
    }
    assert shown == {metric.name for metric in TABLE}


def test_panels_have_numbers_of_their_own_and_lie_beside_each_other() -> None:
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


@pytest.mark.parametrize("rule", RULES, ids=lambda one: one["alert"])
def test_each_alert_says_how_urgent_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["summary"].endswith(".")
    page = (CHECKOUT / "docs/alerts.md").read_text()
    section = re.search(rf"^## {rule['alert']}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert section, f"docs/alerts.md says nothing of {rule['alert']}"
    assert "**Means**" in section[1]
    assert "**Do**" in section[1]


def test_the_page_of_alerts_has_no_other_ones() -> None:
    page = (CHECKOUT / "docs/alerts.md").read_text()
    assert re.findall(r"^## (Streamrec\w+)$", page, re.MULTILINE) == [rule["alert"] for rule in RULES]


def test_the_page_of_metrics_is_the_table() -> None:
    page = (CHECKOUT / "docs/metrics.md").read_text()
    rows = [f"| `{one.name}` | {one.kind} | {', '.join(f'`{label}`' for label in one.labels)} | {one.help} |" for one in TABLE]
    assert [line for line in page.splitlines() if line.startswith("| `streamrec_")] == rows


def test_the_rules_do_what_their_own_tests_say() -> None:
    if which("promtool") is None:
        pytest.skip("promtool is not here: Debian's package prometheus brings it")
    folder = CHECKOUT / "cluster/prometheus"
    for command in (["check", "rules", "alerts.yaml"], ["check", "config", "--syntax-only", "prometheus.yml"], ["test", "rules", "alerts_test.yaml"]):
        done = subprocess.run(["promtool", *command], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

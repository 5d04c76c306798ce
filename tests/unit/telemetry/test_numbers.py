from __future__ import annotations

import pickle
import re

import pytest

from streamrec.telemetry.exposition import expose
from streamrec.telemetry.numbers import Numbers, Series
from streamrec.telemetry.table import BY_NAME, TABLE, Kind

UNITS = ("_total", "_seconds", "_records")


def test_counters_add_up_gauges_are_set_and_own_labels_are_filled_in() -> None:
    numbers = Numbers(replica="r1")
    for _ in range(3):
        numbers.add("streamrec_answers_total", source="student")
    numbers.put("streamrec_model_age_seconds", 2.0)
    numbers.put("streamrec_model_age_seconds", 1.0)
    numbers.add("streamrec_steps_total")  # Has no such label.
    taken = numbers.taken()
    assert taken == {
        "streamrec_answers_total": {("r1", "student"): Series(3.0)},
        "streamrec_model_age_seconds": {("r1",): Series(1.0)},
        "streamrec_steps_total": {(): Series(1.0)},
    }
    numbers.add("streamrec_steps_total")
    numbers.clear("streamrec_model_age_seconds")
    assert taken["streamrec_steps_total"][()].value == 1.0  # A copy.
    assert "streamrec_model_age_seconds" not in numbers.taken()
    assert pickle.loads(pickle.dumps(taken)) == taken


@pytest.mark.parametrize(("name", "labels"), [("streamrec_nothing", {}), ("streamrec_answers_total", {}), ("streamrec_steps_total", {"user": "u"})])
def test_a_metric_or_label_that_the_table_lacks_is_refused(name: str, labels: dict[str, str]) -> None:
    with pytest.raises(KeyError, match=name):
        Numbers(replica="r1").add(name, **labels)


def test_a_histogram_counts_what_is_not_above_a_bound() -> None:
    numbers, name = Numbers(replica="r1"), "streamrec_request_seconds"
    bounds = BY_NAME[name].buckets
    for value in (0.0, bounds[0], bounds[0] * 1.01, bounds[-1], bounds[-1] * 2):
        numbers.observe(name, value, route="recommend")
    (series,) = numbers.taken()[name].values()
    assert series.buckets == [2, 1, *[0] * (len(bounds) - 3), 1, 1]
    assert series.value == pytest.approx(bounds[0] * 2.01 + bounds[-1] * 3)
    text = expose([numbers.taken()]).decode()
    ours = 'replica="r1",route="recommend"'
    assert f'{name}_bucket{{le="0.0005",{ours}}} 2.0' in text
    assert f'{name}_bucket{{le="+Inf",{ours}}} 5.0' in text
    assert f"{name}_count{{{ours}}} 5.0" in text


def test_the_text_has_each_metric_once_with_the_series_of_all_sources() -> None:
    sources = []
    for replica in ("r1", 'r"2\n'):
        numbers = Numbers(replica=replica)
        numbers.add("streamrec_answers_total", 2, source="student")
        sources.append(numbers.taken())
    lines = expose(sources).decode().splitlines()
    assert lines == [
        "# HELP streamrec_answers_total Recommendations by where they come from.",
        "# TYPE streamrec_answers_total counter",
        'streamrec_answers_total{replica="r1",source="student"} 2.0',
        r'streamrec_answers_total{replica="r\"2\n",source="student"} 2.0',
    ]
    assert expose([]) == b""


@pytest.mark.parametrize("metric", TABLE, ids=lambda one: one.name)
def test_names_follow_the_conventions_of_prometheus(metric) -> None:  # type: ignore[no-untyped-def]
    assert re.fullmatch(r"streamrec(_[a-z]+)+", metric.name)
    assert (metric.kind is Kind.COUNTER) == metric.name.endswith("_total")
    assert (metric.kind is Kind.HISTOGRAM) == bool(metric.buckets)
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert metric.help.endswith(".")
    assert not {"user", "item", "version", "namespace", "le", "quantile"} & set(metric.labels)
    if metric.kind is Kind.HISTOGRAM:
        assert metric.name.endswith("_seconds")

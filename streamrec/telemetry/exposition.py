"""Write numbers of several processes as the text that Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from streamrec.telemetry.numbers import Taken
from streamrec.telemetry.table import TABLE, Kind
from streamrec.telemetry.table import Metric as Described

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


def expose(sources: Iterable[Taken]) -> bytes:
    """Return the text of all series, metric by metric; two sources never have the same series.

    References: Prometheus' text format, version 0.0.4.
    """
    held = list(sources)

    class Given(Collector):
        def collect(self) -> Iterator[Metric]:
            yield from (family for described in TABLE if (family := _family(described, held)).samples)

    return bytes(generate_latest(Given()))


def _family(described: Described, sources: list[Taken]) -> Metric:
    series = [(key, one) for source in sources for key, one in source.get(described.name, {}).items()]
    if described.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(described.name, described.help, labels=described.labels)
        bounds = [*(f"{bound:g}" for bound in described.buckets), "+Inf"]
        for key, one in series:
            sums = [sum(one.buckets[: place + 1]) for place in range(len(one.buckets))]
            histogram.add_metric(key, list(zip(bounds, sums, strict=True)), one.value)
        return histogram
    make = CounterMetricFamily if described.kind is Kind.COUNTER else GaugeMetricFamily
    family = make(described.name, described.help, labels=described.labels)
    for key, one in series:
        family.add_metric(key, one.value)
    return family

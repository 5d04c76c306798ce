"""Say which batches and offsets the students have learned since a version was marked: all that came, but for what a return took back meanwhile.

A mark says where the stream was when a version was published, or went back to. Returns nest: a later one may lead behind an earlier one, and takes
back what is still learned alone, so that each event is quarantined by one return only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

Mark = dict[str, Any]


@dataclass(frozen=True)
class Stretch:
    """Micro-batches that were learned one after another.

    Attributes:
        first: The first one.
        last: The last one.
        ranges: Partition to the offsets that they read, start and end (exclusive); nothing where the topic was made anew since.
    """

    first: int
    last: int
    ranges: dict[str, list[int]]


def learned_since(mark: Mark, batch: int, offsets: Mapping[int, int]) -> list[Stretch]:
    """Return what was learned since a mark, up to a batch with the next offsets of each partition, oldest first."""
    held = [Stretch(**each) for each in mark.get("before", ())]
    if batch <= mark["batch"]:
        return held
    ranges = {str(partition): [mark["offsets"].get(str(partition), 0), end] for partition, end in sorted(offsets.items())}
    return [*held, Stretch(mark["batch"] + 1, batch, ranges)]


def after_a_return(marks: Mapping[str, Mark], version: str, batch: int, offsets: Mapping[int, int]) -> dict[str, Mark]:
    """Return the marks as they are once the students went back to a version; those of newer ones go, since they lead to what was taken back."""
    taken = learned_since(marks[version], batch, offsets)
    here = {"batch": batch, "offsets": {str(partition): offset for partition, offset in offsets.items()}}
    kept = {name: _before(learned_since(mark, batch, offsets), taken) for name, mark in marks.items() if name <= version}
    return {name: {**marks[name], **here, "before": [asdict(each) for each in held]} for name, held in kept.items()}


def _before(held: list[Stretch], taken: list[Stretch]) -> list[Stretch]:
    """Return what was learned before the first stretch that is taken back: what an older mark has beyond it ends as a newer one's does."""
    if not taken:
        return held
    first = taken[0]
    whole = [each for each in held if each.last < first.first]
    cut = [
        Stretch(each.first, first.first - 1, {name: [start, first.ranges[name][0]] for name, (start, _) in each.ranges.items()})
        for each in held
        if each.first < first.first <= each.last
    ]
    return whole + cut


def of_a_new_topic(marks: Mapping[str, Mark], batch: int, starts: Mapping[int, int]) -> dict[str, Mark]:
    """Return the marks as they are once a batch went on with a topic that was made anew: offsets of before lie in none."""
    here = {"batch": batch, "offsets": {str(partition): start for partition, start in starts.items()}}
    return {
        version: {**mark, **here, "before": [{**asdict(each), "ranges": {}} for each in learned_since(mark, batch, {})]}
        for version, mark in marks.items()
    }

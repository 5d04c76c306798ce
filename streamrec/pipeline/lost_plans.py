"""Look at a start whether every batch that only the lake has can be executed again as it was planned."""

from __future__ import annotations

from streamrec.errors import Damaged
from streamrec.pipeline.parts import Parts


def check_plans(parts: Parts, batch: int) -> None:
    """Return if the plans of all batches that the lake has beyond the state's last one are there.

    The lake takes rows of a batch once. Planned anew, a batch would read another range under the same number, and its rows would be left out.

    Args:
        parts: The lake and the plans; without either there is nothing to check.
        batch: The state's last one, as it was restored; 0 for a new one.

    Raises:
        Damaged: Plans are lost.
        StorageError: The lake or the plans can't be read.
    """
    if parts.lake is None or parts.plans is None:
        return
    last = parts.lake.lake.last_batch()
    stored = set(parts.plans.batches()) if last > batch else set()
    lost = [number for number in range(batch + 1, last + 1) if number not in stored]
    if lost:
        what = f"Plan: that of batch {lost[0]} is lost, {parts.plans.where(lost[0])}"
        where = parts.lake.lake.address
        got = f"rows up to batch {last} in the lake at {where}, the state at batch {batch}, {len(lost)} of the plans between missing"
        do = "restore it from a copy; without one make the state anew with `python -m jobs.rebuild`"
        raise Damaged(what, got=got, allowed="none missing", do=do, batches=lost)

"""Look at a start whether every batch that was taken beyond the last commit can be executed again as it was planned."""

from __future__ import annotations

from streamrec.errors import Damaged
from streamrec.pipeline.parts import Parts
from streamrec.pipeline.plan_store import PlanStore


def check_plans(parts: Parts, batch: int) -> None:
    """Return if the plans of all batches beyond the state's last one are there, up to the last one that the lake has or that is planned.

    Those that another plan gives up may be gone.

    Planned anew, a batch would read another range under the same number: the lake, which takes rows of a batch once, would leave its rows out, and
    the plan that follows would read some records twice or never.

    Args:
        parts: The lake and the plans; without plans there is nothing to check.
        batch: The state's last one, as it was restored; 0 for a new one.

    Raises:
        Damaged: Plans are lost, or one is not what was written.
        StorageError: The lake or the plans can't be read.
    """
    if parts.plans is None:
        return
    lake = parts.lake.lake if parts.lake is not None else None
    check_stored_plans(parts.plans, batch, 0 if lake is None else lake.last_batch(), "" if lake is None else lake.address)


def check_stored_plans(plans: PlanStore, batch: int, in_lake: int, lake_address: str) -> None:
    """Return or raise as `check_plans`.

    Args:
        plans: Where they are.
        batch: The state's last one.
        in_lake: The lake's last one; 0 where it has none, or there is no lake.
        lake_address: The lake's; empty where there is none.
    """
    stored = plans.ahead(batch)
    last = max(in_lake, max(stored, default=0))
    since = {number: plan.get("after") for number, plan in stored.items()}
    given_up = {gone for number, after in since.items() if after is not None for gone in range(after + 1, number)}
    lost = [number for number in range(batch + 1, last + 1) if number not in stored and number not in given_up]
    if lost:
        what = f"Plan: that of batch {lost[0]} is lost, {plans.where(lost[0])}"
        held = f"the plan of batch {last}"
        if lake_address and last == in_lake:
            held = f"rows up to batch {last} in the lake at {lake_address}"
        got = f"{held}, the state at batch {batch}, {len(lost)} of the plans between missing"
        do = "restore it from a copy; without one make the state anew with `python -m jobs.rebuild --anew`"
        raise Damaged(what, got=got, allowed="none missing", do=do, batches=lost)

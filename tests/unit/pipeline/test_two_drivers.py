from __future__ import annotations

from typing import Any

import pytest

from streamrec.errors import Fenced
from streamrec.pipeline.layout import registry_url
from streamrec.registry.registry import Registry
from streamrec.storage import open_storage

World = Any


def test_a_driver_that_was_replaced_stops_before_it_plans_or_promotes_anything_more(world: World) -> None:
    older = world.controller()
    for _ in range(3):
        older.step()
        world.clock.advance(0.1)
    registry = Registry(open_storage(registry_url(str(world.folder))))
    newer = world.controller()
    plans, live = newer.parts.plans.batches(), registry.live()
    with pytest.raises(Fenced, match="another writer has taken over"):
        older.step()
    assert newer.parts.plans.batches() == plans
    assert registry.live() == live


def test_a_plan_that_the_replaced_driver_made_in_its_last_moment_is_executed_and_not_fought_over(world: World) -> None:
    older = world.controller()
    older.step()
    world.clock.advance(0.1)
    plan = older._new_plan()
    newer = world.controller()
    newer.step()  # Lists the plans and executes the first again.
    older.parts.plans.write(plan.model_dump(mode="json"), plan.batch)  # Its look at the owner was before the newer one came.
    world.clock.advance(5.0)
    report = newer.step()
    assert report is not None
    assert report.plan == plan
    assert newer.state.batch == 2


def test_a_replaced_driver_can_not_end_with_a_plan_of_its_own(world: World) -> None:
    older = world.controller()
    older.step()
    newer = world.controller()
    plans = newer.parts.plans.batches()
    with pytest.raises(Fenced):
        older.finish()
    assert newer.parts.plans.batches() == plans

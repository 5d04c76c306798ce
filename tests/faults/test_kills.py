"""Kill everything that can die, on a real broker and three Ray nodes, and compare with what nothing disturbed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from streamrec.errors import EmbeddedBrokerError
from streamrec.testing.chaos.campaign import REMOVED, Campaign
from streamrec.testing.chaos.kills import Target, wanted_in_ci
from streamrec.testing.chaos.records import DEFAULT, OWN_ITEMS, SHOP
from streamrec.testing.chaos.rig import open_rig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SEED = 4


@pytest.fixture(scope="module")
def campaign() -> Iterator[Campaign]:
    try:
        with open_rig() as rig:
            yield Campaign(rig, print)
    except EmbeddedBrokerError as error:
        pytest.skip(str(error))


def test_a_run_in_which_everything_dies_once_ends_in_the_bits_of_an_undisturbed_one(campaign: Campaign) -> None:
    wanted = wanted_in_ci(SEED)
    assert campaign.run(np.random.default_rng(SEED), wanted, with_transformer=True) == []
    assert campaign.tally.targets.total() == len(wanted)  # Each kill found its window.
    assert set(campaign.tally.targets) == {target.value for target in Target}
    assert campaign.rig.named_actors() == []


def test_the_comparison_sees_a_lost_event_of_either_namespace_and_a_lost_deletion_and_says_where(campaign: Campaign) -> None:
    assert campaign.prove(with_transformer=True) == []
    seen = {what: campaign.without(what, with_transformer=True) for what in REMOVED}
    assert all("offsets" not in names for names in seen.values())
    assert "shop" in seen["an event of the second namespace"]["lake rows"]
    assert "planted" in seen["a deletion"]["lake rows"]


def test_the_world_has_all_that_a_stream_meets(campaign: Campaign) -> None:
    found = campaign.reference(with_transformer=True).fingerprint
    assert min(found["books"][name] for name in ("applied", "duplicate", "late", "rejected")) >= 10
    assert min(found["events by namespace"].values()) > 500
    assert {reason for *_, reason in found["dead letters"]} == {"not_json", "missing_field", "future_time"}
    assert len({receipt["batch"] for receipt in found["receipts"].values()}) == 3
    assert not {(namespace, item) for namespace in (DEFAULT, SHOP) for item in OWN_ITEMS} & set(found["vocabulary"])

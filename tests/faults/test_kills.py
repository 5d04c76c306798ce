"""Kill everything that can die, on a real broker and three Ray nodes, and compare with what nothing disturbed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from streamrec.errors import EmbeddedBrokerError
from streamrec.testing.chaos.campaign import REMOVED, Campaign
from streamrec.testing.chaos.compare import differences
from streamrec.testing.chaos.kills import Target, wanted_in_ci
from streamrec.testing.chaos.reference import Without
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


def test_the_comparison_sees_one_lost_event_and_says_where(campaign: Campaign) -> None:
    assert campaign.prove(with_transformer=True) == []
    wanted = campaign.reference(with_transformer=True).fingerprint
    seen = differences(wanted, campaign.replayed(lambda reader: Without(reader, *REMOVED), with_transformer=True).fingerprint)
    assert seen["lake rows"].startswith("lacks [(0, 1000,")
    assert "offsets" not in seen

from __future__ import annotations

import numpy as np

from streamrec.config import EventsConfig
from streamrec.events.codec import encode_table
from streamrec.events.meaning import roles_of
from streamrec.events.synthetic import synthetic_dataset


def test_the_same_seed_gives_the_same_world_and_another_seed_another() -> None:
    assert synthetic_dataset(seed=3).events.equals(synthetic_dataset(seed=3).events)
    assert not synthetic_dataset(seed=3).events.equals(synthetic_dataset(seed=4).events)


def test_most_clicks_are_of_the_users_own_taste() -> None:
    events = synthetic_dataset(num_tastes=5, loyalty=0.8, repeats=0.0, num_events=5000).events
    users, items = (np.array([int(name[1:]) for name in events[column].to_pylist()]) for column in ("user_id", "item_id"))
    share = float(np.mean(users % 5 == items % 5))
    assert 0.8 < share < 0.88  # 0.8 by taste, and a fifth of the rest by chance


def test_a_world_can_be_encoded_and_has_a_meaning() -> None:
    dataset = synthetic_dataset(num_users=3, num_items=7, num_tastes=3, num_events=50)
    assert len(encode_table(dataset.events)[0]) == 50
    assert dataset.items is not None
    assert len(encode_table(dataset.items)[0]) == 7
    assert set(roles_of(dataset.events, EventsConfig().meanings)[0].tolist()) == {0}
    assert dataset.facts["items"] <= 7

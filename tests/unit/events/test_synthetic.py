from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamrec.config import EventsConfig
from streamrec.events.codec import encode_table
from streamrec.events.meaning import roles_of
from streamrec.events.schema import Kind
from streamrec.events.synthetic import ArrivingWorld, synthetic_dataset


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


def test_a_world_in_which_users_and_items_arrive_gives_the_same_events_however_often_it_is_asked() -> None:
    worlds = [ArrivingWorld(seed=3), ArrivingWorld(seed=3)]
    assert worlds[0].take(500, 0, 1000).equals(worlds[1].take(500, 0, 1000))
    assert not worlds[0].take(500, 0, 1000).equals(ArrivingWorld(seed=3).take(500, 0, 1000))


def test_in_such_a_world_new_users_and_items_come_throughout_and_the_first_ones_go() -> None:
    world = ArrivingWorld(num_users=50, num_items=60, new_users=0.1, new_items=0.1)
    parts = [world.take(1000, start, start + 999) for start in range(0, 5000, 1000)]
    clicks = [part.filter(pc.equal(part["kind"], Kind.INTERACTION.value)) for part in parts]
    for column in ("user_id", "item_id"):
        names = [{int(name[1:]) for name in part[column].to_pylist()} for part in clicks]
        assert all(max(later) > max(earlier) for earlier, later in itertools.pairwise(names))
        assert not names[0] & names[-1]


def test_in_such_a_world_every_item_is_announced_once_and_before_its_first_click() -> None:
    world = ArrivingWorld(num_items=60, new_items=0.1)
    events = pa.concat_tables([world.take(300, start, start + 299) for start in range(0, 1500, 300)])
    announced: list[str] = []
    for kind, item in zip(events["kind"].to_pylist(), events["item_id"].to_pylist(), strict=True):
        if kind == Kind.ITEM_UPDATE:
            announced.append(item)
        else:
            assert item in announced
    assert len(announced) == len(set(announced)) == 60 + 149
    assert len(encode_table(events)[0]) == events.num_rows
    assert len(set(events["event_id"].to_pylist())) == events.num_rows

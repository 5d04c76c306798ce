from __future__ import annotations

import pytest

from streamrec.room import Process, first_without_room, num_that_fit, room_for

WORKER = {"CPU": 0.7, "gpu-node": 0.01}


def test_as_many_fit_as_the_scarcest_resource_allows_and_tenths_are_not_lost_to_rounding() -> None:
    assert num_that_fit(WORKER, {"CPU": 7.0, "gpu-node": 1.0}) == 10
    assert num_that_fit({"CPU": 0.1}, {"CPU": 0.1 + 0.1 + 0.1}) == 3
    assert num_that_fit({"CPU": 0.7}, {"CPU": 2.1 - 1e-12}) == 3
    assert num_that_fit(WORKER, {"CPU": 7.0}) == 0
    assert num_that_fit({"CPU": 1.0}, {"CPU": -3.0}) == 0


@pytest.mark.parametrize(
    ("nodes", "room"),
    [
        ([{"CPU": 2.0}], 1),  # Half of one is for reading.
        ([{"CPU": 2.0}, {"CPU": 0.5}], 2),
        ([{"CPU": 2.5}, {"CPU": 1.0}], 3),
        ([{"CPU": 0.3}], 0),
        ([], 0),
    ],
)
def test_room_is_what_is_left_beside_a_reading_task(nodes: list[dict[str, float]], room: int) -> None:
    assert room_for({"CPU": 1.0}, nodes) == room


def test_who_is_choosy_gets_the_node_that_has_it_before_others_fill_it() -> None:
    nodes = [{"CPU": 4.0, "gpu-node": 1.0, "GPU": 1.0}, {"CPU": 1.0}]
    worker = Process("train worker", {"CPU": 4.0, "gpu-node": 1.0, "GPU": 1.0})
    others = [Process("student", {"CPU": 0.1}, 5), Process("reading task", {"CPU": 0.5})]
    assert first_without_room([*others, worker], nodes) is None
    assert first_without_room([Process("student", {"CPU": 0.1, "gpu-node": 0.01}), worker], nodes) is not None
    assert first_without_room([*others, worker], [{"CPU": 9.0}]) is worker
    assert first_without_room([Process("board", {"CPU": 0.0}, 100)], []) is None


def test_a_sum_that_fits_in_no_single_place_is_found() -> None:
    pair = Process("train worker", {"CPU": 1.5}, 3)
    assert first_without_room([pair], [{"CPU": 2.0}, {"CPU": 2.0}, {"CPU": 2.0}]) is None
    assert first_without_room([pair], [{"CPU": 4.0}, {"CPU": 1.0}]) is pair

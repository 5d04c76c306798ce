"""A row of a teacher that came back with another item."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from streamrec.config import LinearConfig, TransformerConfig
from streamrec.errors import RegistryError
from streamrec.features.examples import Examples
from streamrec.migrations import number_of
from streamrec.soft_labels.scorer import RowFacts, Scorer
from streamrec.state import ComponentState, from_bytes, to_bytes
from streamrec.storage.local import LocalStorage
from streamrec.teachers.batches import Sequences
from streamrec.teachers.kinds import load_teacher
from streamrec.teachers.linear import LinearStatistics
from streamrec.teachers.linear_version import solve_version
from streamrec.teachers.store import TeacherStore
from streamrec.teachers.train_loop import build_transformer, train_transformer
from streamrec.teachers.window import EventWindow

NUM = 8
SHAPE = TransformerConfig(
    dim=8, num_layers=1, num_heads=1, sequence_length=4, batch_events=40, first_epochs=20, first_steps=20, refresh_steps=3, dropout=0.0
)
LINEAR = LinearConfig(max_items=6, ridge=2.0, history_decay=0.9)


def cycle() -> Sequences:
    rows = ((np.arange(40)[:, None] + np.arange(5)[None, :]) % NUM).astype(np.int32)
    return Sequences(rows, rows >= 0, np.zeros(len(rows), np.int64), 0)


def chain(rows: list[int], num: int = 30) -> Examples:
    """Each row is followed by the next one of the list."""
    place = np.arange(num) % len(rows)
    history, target = np.asarray(rows)[place], np.asarray(rows)[(place + 1) % len(rows)]
    zeros = np.zeros(num, np.int32)
    padded = np.concatenate([history[:, None], np.full((num, 2), -1)], 1).astype(np.int32)
    return Examples(padded, np.arange(num + 1), target.astype(np.int32), np.ones(num, np.float32), zeros.astype(np.int64), zeros)


def test_a_warm_start_takes_nothing_over_to_the_next_item_on_a_row() -> None:
    state, _ = train_transformer(cycle(), np.zeros(NUM, np.int32), None, SHAPE, 0)
    old = torch.from_numpy(state.arrays["items.weight"])
    now = np.asarray([0, 0, 0, 1, -1, 0, 0, 0, 0], np.int32)
    model = build_transformer(now, SHAPE, state)
    same = [0, 1, 2, 5, 6, 7]
    torch.testing.assert_close(model.items.weight[same].detach(), old[same])
    for row in (3, 4, 8):
        assert float((model.items.weight[row].detach() @ old.T).max()) < 0.999
        assert model.bias[row] == 0


def teachers() -> dict[str, ComponentState]:
    """A transformer and a linear teacher that have learned the cycle; row 2 had been given to its second item then."""
    generations = np.asarray([0, 0, 1, 0, 0, 0, 0, 0], np.int32)
    statistics = LinearStatistics(LINEAR.model_copy(update={"max_items": 64}))
    statistics.update(chain(list(range(NUM))))
    matrices = statistics.matrices()
    payload = ComponentState({**matrices.arrays, "generation": generations[matrices.arrays["rows"]]}, matrices.meta)
    return {"transformer": train_transformer(cycle(), generations, None, SHAPE, 0)[0], "linear": solve_version(payload, LINEAR)}


@pytest.mark.parametrize("teacher", ["transformer", "linear"])
def test_a_teacher_does_not_know_an_item_that_came_after_it_was_asked_for(teacher: str, tmp_path: Path) -> None:
    store = TeacherStore(LocalStorage(str(tmp_path)))
    store.publish(teacher, "v1", from_bytes(to_bytes(teachers()[teacher])), {})
    now = RowFacts(np.asarray([0, 0, 0, 0, -1, 0, 0, 0, 0], np.int32), np.asarray([0, 0, 1, 1, -1, 0, 0, 0, 0], np.int32))
    unknown = {3, 4, 8}
    asked = Examples(
        np.asarray([[1, -1, -1], [2, -1, -1], [3, -1, -1], [3, 1, -1]], np.int32), np.arange(5), np.asarray([2, 3, 5, 2], np.int32),
        np.ones(4, np.float32), np.zeros(4, np.int64), np.zeros(4, np.int32),
    )  # fmt: skip
    scores = Scorer(str(tmp_path), 6).score(asked, {teacher: "v1"}, {}, now)[teacher]
    assert not unknown & set(scores.rows.ravel().tolist())
    assert np.isneginf(scores.target_logits[1])
    assert (scores.rows[2] == -1).all(), "a history of nothing but items that it does not know"
    assert np.isfinite(scores.target_logits[[0, 3]]).all()
    np.testing.assert_array_equal(scores.rows[3], scores.rows[0], "what it does not know is skipped in a history")


def test_versions_of_format_one_hold_first_items_and_newer_ones_are_refused(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path))
    store = TeacherStore(storage)
    for name, state in teachers().items():
        old = {key: array for key, array in state.arrays.items() if key != "generation"}
        teacher = load_teacher(ComponentState(old, state.meta))
        assert teacher.generations.tolist() == [0] * NUM
        store.publish(name, "v1", state, {})
        key = f"teachers/{name}/v1/manifest.json"
        newer = json.loads(storage.read(key)) | {"format": number_of("teacher") + 1}
        storage.delete(key)
        storage.write_new(key, json.dumps(newer).encode())
        with pytest.raises(RegistryError, match="written by a newer streamrec"):
            store.load(name, "v1")


def test_forgotten_rows_leave_no_sums_and_their_slots_are_given_anew() -> None:
    statistics, without = LinearStatistics(LINEAR), LinearStatistics(LINEAR)
    statistics.update(chain([0, 1, 2, 3, 4, 5]))
    statistics.update(chain([9, 8, 9]))
    assert statistics.matrices().arrays["rows"].tolist() == [0, 1, 2, 3, 4, 5]
    kept = statistics.matrices().arrays["gram"][np.ix_([0, 2, 3, 5], [0, 2, 3, 5])]
    assert statistics.forget_rows(np.asarray([1, 4, 7], np.int32)) == 2
    found = statistics.matrices().arrays
    assert found["rows"].tolist() == [0, 2, 3, 5]
    np.testing.assert_array_equal(found["gram"], kept)
    statistics.update(chain([1, 4], 10))
    again = statistics.matrices().arrays
    assert again["rows"].tolist() == [0, 2, 3, 5, 1, 4]
    without.update(chain([1, 4], 10))
    np.testing.assert_array_equal(again["gram"][4:, 4:], without.matrices().arrays["gram"])
    assert not again["gram"][:4, 4:].any()
    assert not again["cross"][4:, :4].any()


def test_a_window_forgets_the_events_of_rows_and_keeps_the_order_of_the_rest() -> None:
    window = EventWindow(6)
    number = np.arange(9)
    window.add(number % 2, (number % 4).astype(np.int32), number)
    window.snapshot()
    assert window.forget_rows(np.asarray([1], np.int32)) == 1
    assert window.delta() is None
    window.add(np.zeros(2, np.int64), np.asarray([7, 7], np.int32), np.asarray([20, 21]))
    assert window.sequences(8).rows.tolist() == [[0, 2, 0, 7, 7, -1, -1, -1, -1]]

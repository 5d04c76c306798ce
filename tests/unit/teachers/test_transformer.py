from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import distributed

from streamrec.config import TeachersConfig, TransformerConfig
from streamrec.errors import Damaged, DataError
from streamrec.models.transformer import LOGIT_SCALE, SequentialTransformer
from streamrec.state import ComponentState, digest_of
from streamrec.storage import LocalStorage
from streamrec.teachers.batches import Sequences, batch_of
from streamrec.teachers.requests import LocalRefresher, RefreshRequest, carry_out
from streamrec.teachers.store import TeacherStore
from streamrec.teachers.train_loop import budget, build_transformer, train_transformer
from streamrec.teachers.training import Place, Training
from streamrec.teachers.transformer import TransformerTeacher

CONFIG = TransformerConfig(
    dim=8,
    num_layers=2,
    num_heads=2,
    sequence_length=6,
    batch_events=56,
    first_epochs=100,
    first_steps=70,
    refresh_steps=4,
    dropout=0.0,
    learning_rate=2e-2,
    item_learning_rate=2e-2,
)


def model(num_items: int = 10) -> SequentialTransformer:
    torch.manual_seed(0)
    made = SequentialTransformer(num_items, 8, 2, 2, 6, 0.2).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return made


def sequences(rows: np.ndarray) -> Sequences:
    """Sequences of baskets of one item, all of them new."""
    return Sequences(rows, rows >= 0, np.zeros(len(rows), np.int64), 0)


def cycle(num: int = 40, num_items: int = 10) -> Sequences:
    """Sequences in which the next item is the last one plus 1; some are short."""
    rng = np.random.default_rng(0)
    window = (rng.integers(0, num_items, num)[:, None] + np.arange(7)[None, :]) % num_items
    window[::4, 3:] = -1
    return sequences(window.astype(np.int32))


def fresh(num: int) -> np.ndarray:
    """Generations of rows that all hold their first item."""
    return np.zeros(num, np.int32)


def test_later_items_do_not_change_earlier_states() -> None:
    made = model()
    sequence = torch.tensor([[1, 2, 3, 4, 5, 6]])
    changed = torch.tensor([[1, 2, 3, 9, 0, 7]])
    with torch.no_grad():
        one, other = made(sequence), made(changed)
    torch.testing.assert_close(one[:, :3], other[:, :3])
    assert not torch.allclose(one[:, 3:], other[:, 3:])


@pytest.mark.parametrize("num_layers", [1, 3])
def test_the_state_at_one_place_is_that_of_all_places(num_layers: int) -> None:
    torch.manual_seed(3)
    model = SequentialTransformer(num_items=9, dim=8, num_layers=num_layers, num_heads=2, length=6, dropout=0.5).eval()
    sequence = torch.randint(0, 9, (5, 6))
    places = torch.tensor([0, 5, 2, 3, 5])
    sequence[torch.arange(6) > places[:, None]] = -1
    with torch.no_grad():
        torch.testing.assert_close(model.states_at(sequence, places), model(sequence)[torch.arange(5), places])


def test_padding_on_the_right_changes_nothing() -> None:
    made = model()
    with torch.no_grad():
        torch.testing.assert_close(made(torch.tensor([[1, 2, 3]])), made(torch.tensor([[1, 2, 3, -1, -1]]))[:, :3])


def test_the_loss_falls_and_the_teacher_learns_the_cycle() -> None:
    state, losses = train_transformer(cycle(), fresh(10), None, CONFIG, 0)
    assert len(losses) == 70
    assert losses[-1] < losses[0] / 2
    scores = TransformerTeacher(state).score(np.asarray([[4, 3, -1, -1], [8, 7, 6, 5]], np.int32), np.arange(10, dtype=np.int32))
    assert scores.argmax(1).tolist() == [5, 9]


def test_a_teacher_answers_by_the_scores_that_its_training_was_told_of() -> None:
    rows = np.asarray([[3, 1, 3, 4, 1, 9, -1]], np.int32)
    training = Training(model(), sequences(rows), CONFIG, 0, Place())
    batch = batch_of(sequences(rows), np.asarray([0]))
    states, state_of = np.unique(batch.source, return_inverse=True)
    inputs = (batch.rows.astype(np.int64), states, state_of, batch.targets.astype(np.int64))
    block = training.table.gather(torch.arange(10))
    with torch.no_grad():
        told = training._network.eval()(block, torch.zeros(10), *map(torch.from_numpy, inputs))
    meta = {"shape": {"dim": 8, "num_layers": 2, "num_heads": 2, "length": 6}, "num_items": 10, "unit_states": True}
    teacher = TransformerTeacher(ComponentState({name: tensor.numpy() for name, tensor in model().state_dict().items()}, meta))
    assert float(model().own.detach().abs().min()) > 0
    loss = 0.0
    for end in range(1, 6):
        history = rows[:, :end][:, ::-1]
        scores = teacher.score(np.pad(history, ((0, 0), (0, 6 - end)), constant_values=-1), np.arange(10, dtype=np.int32))[0]
        loss += float(np.log(np.exp(scores.astype(np.float64)).sum()) - scores[rows[0, end]])
        some = np.asarray([1, 4, 8], np.int32)
        np.testing.assert_allclose(teacher.score(history, some)[0], scores[some], atol=1e-5)
    assert loss == pytest.approx(float(told), rel=1e-5)


def test_who_takes_an_item_again_is_understood_whatever_the_item() -> None:
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 200, (300, 2)).astype(np.int32)
    state, _ = train_transformer(sequences(np.tile(pairs, 4)[:, :7]), fresh(220), None, CONFIG, 0)
    unseen = np.asarray([[215, 203, 215], [208, 211, 208]], np.int32)
    assert TransformerTeacher(state).score(unseen, np.arange(220, dtype=np.int32)).argmax(1).tolist() == [203, 211]


def test_a_version_of_before_own_items_and_fixed_lengths_is_scored_as_it_was_and_not_trained_further() -> None:
    state, _ = train_transformer(cycle(), fresh(10), None, CONFIG, 0)
    old = ComponentState(
        {name: array for name, array in state.arrays.items() if name != "own"},
        {name: value for name, value in state.meta.items() if name != "unit_states"},
    )
    asked = np.asarray([[4, 3, -1], [8, 7, 8]], np.int32)
    made = build_transformer(fresh(10), CONFIG, state).eval()
    made.has_unit_states = False
    with torch.no_grad():
        states = made.states_at(torch.tensor([[3, 4, -1], [8, 7, 8]]), torch.tensor([1, 2]))
        wanted = made.logits(states).numpy()
    np.testing.assert_allclose(TransformerTeacher(old).score(asked, np.arange(10, dtype=np.int32)), wanted, atol=1e-6)
    again = [train_transformer(cycle(), fresh(10), before, CONFIG, 0)[0] for before in (None, old)]
    assert digest_of(again[0]) == digest_of(again[1])


def test_states_have_one_length_whatever_is_learned() -> None:
    state, _ = train_transformer(cycle(), fresh(10), None, CONFIG, 0)
    further, _ = train_transformer(cycle(), fresh(10), state, CONFIG, 0)
    for each in (state, further):
        lengths = np.linalg.norm(TransformerTeacher(each).represent(np.asarray([[4, 3, -1], [8, 7, 8]], np.int32)), axis=1)
        np.testing.assert_allclose(lengths, LOGIT_SCALE, rtol=1e-5)


def test_sequences_of_two_items_are_learned_whole() -> None:
    window = np.full((16, 7), -1, np.int32)
    window[:, 0], window[:, 1] = np.arange(16) % 2, 2 + np.arange(16) % 2
    state, losses = train_transformer(sequences(window), fresh(4), None, CONFIG, 0)
    assert np.isfinite(losses).all()
    assert TransformerTeacher(state).score(np.asarray([[0], [1]], np.int32), np.arange(4, dtype=np.int32)).argmax(1).tolist() == [2, 3]


def test_the_oldest_item_of_a_full_window_counts() -> None:
    one, other = cycle(8), cycle(8)
    other.rows[:, 0] = (other.rows[:, 0] + 5) % 10
    assert digest_of(train_transformer(one, fresh(10), None, CONFIG, 0)[0]) != digest_of(train_transformer(other, fresh(10), None, CONFIG, 0)[0])


@pytest.mark.parametrize("settings", [{}, {"full_softmax_items": 4, "num_negatives": 5}])
def test_training_is_a_function_of_its_arguments_and_leaves_the_global_generator_alone(settings: dict[str, int]) -> None:
    config = CONFIG.model_copy(update={"first_steps": 5, "dropout": 0.2, **settings})
    torch.manual_seed(1)
    first = digest_of(train_transformer(cycle(), fresh(10), None, config, 3)[0])
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert drawn == torch.rand(1)
    assert digest_of(train_transformer(cycle(), fresh(10), None, config, 3)[0]) == first
    assert digest_of(train_transformer(cycle(), fresh(10), None, config, 4)[0]) != first


def test_the_sampled_loss_falls_too() -> None:
    _, losses = train_transformer(cycle(), fresh(10), None, CONFIG.model_copy(update={"full_softmax_items": 4, "num_negatives": 8}), 0)
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) * 0.7


def test_a_warm_start_keeps_the_rows_of_old_items_and_gives_new_ones_a_vector_of_their_length() -> None:
    state, _ = train_transformer(cycle(), fresh(10), None, CONFIG, 0)
    grown = build_transformer(fresh(13), CONFIG, state)
    old = torch.from_numpy(state.arrays["items.weight"])
    torch.testing.assert_close(grown.items.weight[:10].detach(), old)
    torch.testing.assert_close(grown.positions.weight.detach(), torch.from_numpy(state.arrays["positions.weight"]))
    torch.testing.assert_close(grown.items.weight.detach().norm(dim=1), torch.ones(13))
    _, losses = train_transformer(cycle(), fresh(13), state, CONFIG, 1)
    assert len(losses) == 4
    assert losses[0] < 2.0  # far below log(13)


def test_a_new_item_points_where_the_old_ones_beside_it_point() -> None:
    state, _ = train_transformer(cycle(), fresh(10), None, CONFIG, 0)
    window = sequences(np.asarray([[1, 10, 2], [10, 2, 11], [12, 11, -1]], np.int32))
    grown = build_transformer(fresh(13), CONFIG, state, window).items.weight.detach()
    old = torch.from_numpy(state.arrays["items.weight"])
    torch.testing.assert_close(grown[:10], old)
    beside = old[1] + 2 * old[2]
    torch.testing.assert_close(grown[10], beside / beside.norm())
    torch.testing.assert_close(grown[11], old[2])
    assert float((grown[12] @ grown[:12].T).max()) < 0.999, "it stands beside a new one only"


def test_a_refresh_passes_over_what_is_new_and_no_more_than_its_most_steps() -> None:
    state, losses = train_transformer(cycle(), fresh(10), None, CONFIG.model_copy(update={"first_epochs": 2, "first_steps": 1000}), 0)
    assert len(losses) == 2 * round(cycle().sizes.sum() / 56)
    rows, begins, _, _ = cycle()
    window = Sequences(rows, begins, np.arange(60, 100), 100)
    seen = ComponentState(state.arrays, {**state.meta, "num_seen": 80})
    config = CONFIG.model_copy(update={"refresh_epochs": 3, "refresh_steps": 1000})
    passes, num_steps = budget(window, seen, config, 0)
    assert passes.is_new.tolist() == [False] * 20 + [True] * 20
    assert num_steps == 3 * passes.num_batches
    assert budget(window, seen, config.model_copy(update={"refresh_steps": 4}), 0)[1] == 4
    nothing_new = ComponentState(state.arrays, {**state.meta, "num_seen": 100})
    assert budget(window, nothing_new, config, 0)[0].is_new.all()
    assert train_transformer(window, fresh(10), seen, config, 0)[0].meta["num_seen"] == 100


def test_another_shape_starts_from_nothing() -> None:
    state, _ = train_transformer(cycle(), fresh(10), None, CONFIG, 0)
    other = CONFIG.model_copy(update={"dim": 4})
    assert build_transformer(fresh(10), other, state).items.weight.shape == (10, 4)
    again = [train_transformer(cycle(), fresh(10), before, other, 0)[0] for before in (None, state)]
    assert digest_of(again[0]) == digest_of(again[1])


def test_a_version_whose_vectors_have_any_length_is_scored_as_it_is_and_not_trained_further() -> None:
    state, _ = train_transformer(cycle(), fresh(10), None, CONFIG, 0)
    arrays = {**state.arrays, "items.weight": state.arrays["items.weight"] * 2}
    old = ComponentState(arrays, {name: value for name, value in state.meta.items() if name != "unit_rows"})
    np.testing.assert_array_equal(build_transformer(fresh(10), CONFIG, old).items.weight.detach().numpy(), arrays["items.weight"])
    again = [train_transformer(cycle(), fresh(10), before, CONFIG, 0)[0] for before in (None, old)]
    assert digest_of(again[0]) == digest_of(again[1])


def test_a_window_without_sequences_is_an_error_that_says_so() -> None:
    together = cycle(8)
    together.begins[:, 1:] = False
    for window in (sequences(np.zeros((0, 7), np.int32)), together):
        with pytest.raises(DataError, match="no user has two interactions at different times"):
            train_transformer(window, fresh(10), None, CONFIG, 0)


def request(version: str, previous: str | None = None, **values: object) -> RefreshRequest:
    payload = ComponentState(cycle().state().arrays, {"num_items": 10})
    return RefreshRequest(
        **({"teacher": "transformer", "version": version, "previous": previous, "seed": 1, "num_items": 10, "payload": payload} | values)
    )  # type: ignore[arg-type]


TEACHERS = TeachersConfig(transformer=CONFIG.model_copy(update={"first_steps": 3}))


def test_a_refresh_asked_for_again_is_not_made_again_and_the_same_request_gives_the_same_version(tmp_path: object) -> None:
    folders = [f"{tmp_path}/one", f"{tmp_path}/two"]
    for folder in folders:
        carry_out(request("v1"), TEACHERS, folder)
        carry_out(request("v2", "v1"), TEACHERS, folder)
    one, two = (TeacherStore(LocalStorage(folder)) for folder in folders)
    assert digest_of(one.load("transformer", "v2")) == digest_of(two.load("transformer", "v2"))
    facts = one.facts("transformer", "v2")
    assert facts["previous"] == "v1"
    assert facts["num_steps"] == 4
    assert carry_out(request("v2", None, seed=99), TEACHERS, folders[0]) == facts


def test_a_request_repeated_when_more_items_are_known_makes_the_same_version(tmp_path: object) -> None:
    folders = [f"{tmp_path}/one", f"{tmp_path}/two"]
    for folder, num_items in zip(folders, (10, 25), strict=True):
        carry_out(request("v1", num_items=num_items), TEACHERS, folder)
    one, two = (TeacherStore(LocalStorage(folder)) for folder in folders)
    assert digest_of(one.load("transformer", "v1")) == digest_of(two.load("transformer", "v1"))


def test_only_the_first_rank_publishes(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "all_reduce", lambda tensor: tensor)
    carry_out(request("v1"), TEACHERS, str(tmp_path), Place(1, 2))
    assert not TeacherStore(LocalStorage(str(tmp_path))).exists("transformer", "v1")


def test_a_local_refresher_has_finished_what_it_started(tmp_path: object) -> None:
    refresher = LocalRefresher(TEACHERS, str(tmp_path))
    refresher.start(request("v1"))
    assert refresher.finished() == {"transformer": "v1"}
    assert refresher.failed() == {}
    refresher.wait("transformer", "v1")


def test_a_damaged_or_missing_teacher_version_is_refused(tmp_path: object) -> None:
    storage = LocalStorage(str(tmp_path))
    store = TeacherStore(storage)
    with pytest.raises(Damaged, match=f"linear v1 is lost, no such file as {tmp_path}/teachers/linear/v1/manifest.json"):
        store.load("linear", "v1")
    store.publish("linear", "v1", ComponentState({"weights": np.ones(3, np.float32)}), {})
    store.publish("linear", "v1", ComponentState({"weights": np.zeros(3, np.float32)}), {})
    assert store.load("linear", "v1").arrays["weights"].tolist() == [1, 1, 1]
    key = next(key for key in storage.list("teachers/linear/v1") if "weights" in key and store.manifest("linear", "v1")["sha256"] in key)
    data = bytearray(storage.read(key))
    data[-1] ^= 1
    storage.delete(key)
    storage.write_new(key, bytes(data))
    with pytest.raises(Damaged, match=f"{tmp_path}/{key}, got .*do not match their digest, restore that file"):
        store.load("linear", "v1")
    storage.delete(key)
    with pytest.raises(Damaged, match=f"{tmp_path}/{key}, got no such file"):
        store.load("linear", "v1")

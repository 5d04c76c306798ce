from __future__ import annotations

import numpy as np
import pytest
import torch

from streamrec.config import TeachersConfig, TransformerConfig
from streamrec.errors import Damaged, DataError, RegistryError
from streamrec.models.transformer import SequentialTransformer
from streamrec.state import ComponentState, digest_of
from streamrec.storage import LocalStorage
from streamrec.teachers import train_loop
from streamrec.teachers.requests import LocalRefresher, RefreshRequest, carry_out
from streamrec.teachers.store import TeacherStore
from streamrec.teachers.train_loop import Place, build_transformer, train_transformer
from streamrec.teachers.transformer import TransformerTeacher

CONFIG = TransformerConfig(
    dim=8, num_layers=2, num_heads=2, sequence_length=6, batch_size=8, first_steps=70, refresh_steps=4, dropout=0.0, learning_rate=2e-2
)


def model(num_items: int = 10) -> SequentialTransformer:
    torch.manual_seed(0)
    made = SequentialTransformer(num_items, 8, 2, 2, 6, 0.2).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return made


def cycle(num: int = 40, num_items: int = 10) -> np.ndarray:
    """Sequences in which the next item is the last one plus 1; some are short."""
    rng = np.random.default_rng(0)
    window = (rng.integers(0, num_items, num)[:, None] + np.arange(7)[None, :]) % num_items
    window[::4, 3:] = -1
    return window.astype(np.int32)


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


def test_sequences_of_two_items_are_learned_whole() -> None:
    window = np.full((16, 7), -1, np.int32)
    window[:, 0], window[:, 1] = np.arange(16) % 2, 2 + np.arange(16) % 2
    state, losses = train_transformer(window, fresh(4), None, CONFIG, 0)
    assert np.isfinite(losses).all()
    assert TransformerTeacher(state).score(np.asarray([[0], [1]], np.int32), np.arange(4, dtype=np.int32)).argmax(1).tolist() == [2, 3]


def test_the_oldest_item_of_a_full_window_counts() -> None:
    one = cycle(8)
    other = one.copy()
    other[:, 0] = (other[:, 0] + 5) % 10
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


def test_a_warm_start_keeps_the_rows_of_old_items_and_puts_new_ones_in_the_middle() -> None:
    state, _ = train_transformer(cycle(), fresh(10), None, CONFIG, 0)
    grown = build_transformer(fresh(13), CONFIG, state)
    old = torch.from_numpy(state.arrays["items.weight"])
    torch.testing.assert_close(grown.items.weight[:10].detach(), old)
    torch.testing.assert_close(grown.positions.weight.detach(), torch.from_numpy(state.arrays["positions.weight"]))
    assert (grown.items.weight[10:].detach() - old.mean(0)).abs().max() < 0.15
    _, losses = train_transformer(cycle(), fresh(13), state, CONFIG, 1)
    assert len(losses) == 4
    assert losses[0] < 2.0  # far below log(13)


def test_another_shape_starts_from_nothing() -> None:
    state, _ = train_transformer(cycle(), fresh(10), None, CONFIG, 0)
    other = CONFIG.model_copy(update={"dim": 4})
    assert build_transformer(fresh(10), other, state).items.weight.shape == (10, 4)


def test_two_ranks_split_the_batches_that_one_rank_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    def batches(rank: int, world: int) -> list[list[tuple[int, ...]]]:
        seen: list[list[tuple[int, ...]]] = []
        original = train_loop._Loss.forward

        def spy(self: train_loop._Loss, sequence: torch.Tensor) -> torch.Tensor:
            seen.append([tuple(row) for row in sequence.tolist()])
            return original(self, sequence)

        with monkeypatch.context() as patch:
            patch.setattr(train_loop._Loss, "forward", spy)
            train_transformer(cycle(), fresh(10), None, CONFIG.model_copy(update={"first_steps": 3}), 5, Place(rank, world))
        return seen

    alone, first, second = batches(0, 1), batches(0, 2), batches(1, 2)
    for whole, one, other in zip(alone, first, second, strict=True):
        assert len(one) == len(other) == 4
        assert sorted(whole) == sorted(one + other)


def test_a_window_without_sequences_is_an_error_that_says_so() -> None:
    with pytest.raises(DataError, match="no user has two interactions"):
        train_transformer(np.zeros((0, 7), np.int32), fresh(10), None, CONFIG, 0)


def request(version: str, previous: str | None = None, **values: object) -> RefreshRequest:
    payload = ComponentState({"sequences": cycle()}, {"num_items": 10})
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


def test_only_the_first_rank_publishes(tmp_path: object) -> None:
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
    with pytest.raises(RegistryError, match="no such version"):
        store.load("linear", "v1")
    store.publish("linear", "v1", ComponentState({"weights": np.ones(3, np.float32)}), {})
    store.publish("linear", "v1", ComponentState({"weights": np.zeros(3, np.float32)}), {})
    assert store.load("linear", "v1").arrays["weights"].tolist() == [1, 1, 1]
    key = next(key for key in storage.list("teachers/linear/v1") if "weights" in key and store._manifest("linear", "v1")["sha256"] in key)
    data = bytearray(storage.read(key))
    data[-1] ^= 1
    storage.delete(key)
    storage.write_new(key, bytes(data))
    with pytest.raises(Damaged):
        store.load("linear", "v1")

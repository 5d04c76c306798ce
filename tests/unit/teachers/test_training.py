"""Steps of a training: what they touch, what several workers share, and how one that was cut off goes on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from streamrec.config import TransformerConfig
from streamrec.state import ComponentState, digest_of, from_bytes, to_bytes
from streamrec.teachers.batches import Sequences
from streamrec.teachers.train_loop import build_transformer, train_transformer
from streamrec.teachers.training import Network, Place, Training

CONFIG = TransformerConfig(
    dim=8, num_layers=1, num_heads=2, sequence_length=6, batch_events=50, first_epochs=100, first_steps=13, dropout=0.3, full_softmax_items=10,
    num_negatives=6, checkpoint_steps=4,
)  # fmt: skip
NUM_ITEMS = 40


def window() -> Sequences:
    rng = np.random.default_rng(2)
    rows = rng.integers(0, NUM_ITEMS - 5, (60, 7)).astype(np.int32)
    rows[::3, 3:] = -1
    return Sequences(rows, (rows >= 0) & (rng.random(rows.shape) < 0.7), np.zeros(60, np.int64), 60)


def training(config: TransformerConfig = CONFIG, place: Place | None = None) -> Training:
    torch.manual_seed(0)
    return Training(build_transformer(np.zeros(NUM_ITEMS, np.int32), config, None), window(), config, 1, place or Place())


class Stopped(Exception):
    """A worker that is gone."""


class Kept:
    """Keeps states in memory, as bytes; after so many the worker is gone."""

    def __init__(self, last: int) -> None:
        self.parts: list[bytes] = []
        self.last, self.num = last, 0

    def load(self) -> list[ComponentState]:
        return [from_bytes(part) for part in self.parts]

    def save(self, part: ComponentState | None) -> None:
        self.parts = [] if part is None else [to_bytes(part)]
        self.num += 1
        if self.num == self.last:
            raise Stopped


def test_a_training_that_was_cut_off_ends_in_the_bits_of_one_that_was_not() -> None:
    whole = train_transformer(window(), np.zeros(NUM_ITEMS, np.int32), None, CONFIG, 1)
    kept = Kept(last=2)
    with pytest.raises(Stopped):
        train_transformer(window(), np.zeros(NUM_ITEMS, np.int32), None, CONFIG, 1, Place(checkpoints=kept))
    again = train_transformer(window(), np.zeros(NUM_ITEMS, np.int32), None, CONFIG, 1, Place(checkpoints=kept))
    assert kept.num == 3, "it went on after eight steps of thirteen"
    assert digest_of(again[0]) == digest_of(whole[0])
    assert again[1] == whole[1]


def test_a_step_touches_the_rows_of_its_batch_and_its_negatives_and_no_others() -> None:
    made = training()
    before = {name: tensor.clone() for name, tensor in made.table.own.items()}
    chosen = np.arange(5)
    rows, _ = made.candidates(chosen, 0)
    held = window().rows[chosen]
    assert set(held[held >= 0].tolist()) <= set(rows.tolist())
    assert len(rows) < NUM_ITEMS
    made.step(chosen)
    others = np.setdiff1d(np.arange(NUM_ITEMS), rows)
    for name, tensor in made.table.own.items():
        assert torch.equal(tensor[others], before[name][others])
        assert not torch.equal(tensor[rows], before[name][rows])


@pytest.mark.parametrize("full_softmax_items", [10, 1000])
def test_the_gradients_of_two_workers_are_together_that_of_one(full_softmax_items: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIG.model_copy(update={"dropout": 0.0, "full_softmax_items": full_softmax_items})
    seen: dict[tuple[int, int], dict[str, torch.Tensor]] = {}
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda parameters, most: None)
    for rank, world in ((0, 1), (0, 2), (1, 2)):
        made = training(config, Place(rank, world))
        monkeypatch.setattr(made.table, "averaged", lambda gradient: gradient)
        monkeypatch.setattr(made.table, "descend", lambda rows, gradient, rate, key=(rank, world): seen.__setitem__(key, {"rows": gradient.clone()}))
        made.step(np.arange(17))
        seen[rank, world] |= {name: parameter.grad.clone() for name, parameter in made._network.named_parameters()}
    for name, whole in seen[0, 1].items():
        torch.testing.assert_close((seen[0, 2][name] + seen[1, 2][name]) / 2, whole, atol=1e-6, rtol=1e-4, msg=name)


def test_a_batch_of_fewer_sequences_than_workers_leaves_none_without_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    for rank in range(3):
        made = training(place=Place(rank, 3))
        monkeypatch.setattr(made.table, "averaged", lambda gradient: gradient)
        made.step(np.asarray([1]))
        assert np.isfinite(made.losses).all()


def test_on_a_cpu_nothing_is_compiled_and_nothing_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> nn.Module:
        raise AssertionError

    monkeypatch.setattr(torch, "compile", refuse)
    kinds: set[torch.dtype] = set()
    encode = Network.encode

    def spied(self: Network, vectors: torch.Tensor) -> torch.Tensor:
        assert not torch.is_autocast_enabled("cpu")
        kinds.add((result := encode(self, vectors)).dtype)
        return result

    monkeypatch.setattr(Network, "encode", spied)
    training().step(np.arange(5))
    assert kinds == {torch.float32}


def test_on_a_gpu_the_network_is_compiled() -> None:
    assert Place(device=torch.device("cuda")).is_fast
    assert not Place().is_fast


def test_candidates_that_fill_up_to_an_even_number_change_neither_loss_nor_gradients() -> None:
    made, (width, found) = training(), (Network(CONFIG).positions.weight.shape[1], [])
    block = torch.randn(13, width + 1)
    inputs = (torch.rand(13).log(), torch.tensor([[0, 5, 12, 7]]), torch.tensor([0, 2]), torch.tensor([0, 1, 1]), torch.tensor([3, 12, 7]))
    for aligned_rows in (1, 16):
        network = Network(CONFIG, aligned_rows).eval()
        network.load_state_dict(made._network.state_dict())
        held = block.clone().requires_grad_()
        loss = network(held, *inputs)
        loss.backward()
        assert held.grad is not None
        found.append((loss.detach(), held.grad))
    torch.testing.assert_close(found[1], found[0])

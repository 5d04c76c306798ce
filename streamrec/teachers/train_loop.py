"""Make a version of the sequential transformer: a plain function that runs without Ray, and on several workers when told its place among them."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from streamrec.config import TransformerConfig
from streamrec.errors import DataError
from streamrec.models.transformer import SequentialTransformer
from streamrec.state import ComponentState
from streamrec.teachers.batches import Passes, Sequences
from streamrec.teachers.training import TABLE, Place, Training

GENERATION = "generation"
"""Array of a version that says which item of each row it learned; format 1 has none, all were the first."""


def train_transformer(
    sequences: Sequences,
    generations: NDArray[np.int32],
    previous: ComponentState | None,
    config: TransformerConfig,
    seed: int,
    place: Place | None = None,
) -> tuple[ComponentState, list[float]]:
    """Train for as many passes as the configuration says, so that the result is a function of the arguments alone.

    Args:
        sequences: The window, all of its items in rows of ``generations``.
        generations: Generation of the item of each row, -1 where it is free. [V] int32
        previous: The last version to start from; passes are then over what came after it and as much of what it has seen. None, or one of another
            shape, starts from nothing.
        config: Shape and training settings; batches are shared out to all workers.
        seed: Of initialisation, batches, dropout and negatives.
        place: Rank, device and wrapper; None runs alone on the CPU.

    Returns:
        (the new version's arrays and meta, loss of each step)

    Raises:
        DataError: There is no item that followed others.

    References: see `streamrec.models.transformer`.
    """
    if not (sequences.begins[:, 1:] & (sequences.rows[:, 1:] >= 0)).any():
        what = "Teacher: no user has two interactions at different times, so that there is no next item to learn"
        got = f"{len(sequences.rows)} sequences"
        raise DataError(what, got=got, do="send more interactions, or leave the transformer out of teachers.enabled")
    place = place or Place()
    if previous is not None and not _goes_on(previous, config):
        previous = None
    passes, num_steps = budget(sequences, previous, config, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_transformer(generations, config, previous, sequences)
        training = Training(model, sequences, config, seed, place)
        training.run(passes, num_steps)
    training.write_into(model)
    arrays = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    meta = {"kind": "transformer", "num_items": len(generations), "shape": shape_of(config), "unit_rows": True, "unit_states": True}
    meta["num_seen"] = sequences.num_arrived
    return ComponentState({**arrays, GENERATION: generations}, meta), training.losses


def _goes_on(previous: ComponentState, config: TransformerConfig) -> bool:
    """Return whether a version can be trained further: older releases had item vectors, or states, of any length."""
    return previous.meta.get("shape") == shape_of(config) and bool(previous.meta.get("unit_rows") and previous.meta.get("unit_states"))


def budget(sequences: Sequences, previous: ComponentState | None, config: TransformerConfig, seed: int) -> tuple[Passes, int]:
    """Return the passes and how many steps they are, no more than the configuration's most."""
    epochs, most, num_seen = config.first_epochs, config.first_steps, -1
    if previous is not None:
        epochs, most, num_seen = config.refresh_epochs, config.refresh_steps, int(previous.meta.get("num_seen", -1))
    is_new = sequences.arrived >= num_seen
    # After a deletion, say, a refresh may be asked for without anything new.
    passes = Passes(sequences.sizes, is_new if is_new.any() else np.ones_like(is_new), config.batch_events, seed)
    return passes, min(most, math.ceil(epochs * passes.num_batches))


def shape_of(config: TransformerConfig) -> dict[str, int]:
    """Return the settings that fix the parameters' shapes."""
    return {"dim": config.dim, "num_layers": config.num_layers, "num_heads": config.num_heads, "length": config.sequence_length}


def build_transformer(
    generations: NDArray[np.int32], config: TransformerConfig, previous: ComponentState | None, sequences: Sequences | None = None
) -> SequentialTransformer:
    """Make a model for rows of the given generations [V], with all that fits taken from the previous version.

    Rows that are new or hold another item than then point where the old items do on the whole beside which they stand in the sequences; where there
    are none, anywhere. Nothing of an item goes over to the next one on its row.
    """
    num_items = len(generations)
    model = SequentialTransformer(num_items, config.dim, config.num_layers, config.num_heads, config.sequence_length, config.dropout)
    if previous is None or previous.meta.get("shape") != shape_of(config):
        return model
    model.has_unit_states = bool(previous.meta.get("unit_states"))
    state = model.state_dict()
    then = previous.arrays.get(GENERATION, np.zeros(len(previous.arrays["bias"]), np.int32))
    num_old = min(len(then), num_items)
    same = np.flatnonzero(then[:num_old] == generations[:num_old])
    for name, array in previous.arrays.items():
        old = torch.from_numpy(np.array(array))
        if name in TABLE:
            state[name][same] = old[same]
        elif name != GENERATION:
            state[name] = old
    if sequences is not None:
        rows, means = _beside(sequences.rows, state["items.weight"].numpy(), np.isin(np.arange(num_items), same))
        state["items.weight"][rows] = torch.from_numpy(means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-6))
    model.load_state_dict(state)
    return model


def _beside(sequences: NDArray[np.int32], vectors: NDArray[np.float32], is_old: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return new rows [n] that stand beside old ones, and the mean vector of these. [n, D]."""
    one, other = sequences[:, 1:].ravel(), sequences[:, :-1].ravel()
    there = (one >= 0) & (other >= 0)
    new, old = (np.concatenate(parts)[np.concatenate([there, there])] for parts in ((one, other), (other, one)))
    pairs = ~is_old[new] & is_old[old]
    rows, place = np.unique(new[pairs], return_inverse=True)
    sums = np.zeros((len(rows), vectors.shape[1]), np.float32)
    np.add.at(sums, place, vectors[old[pairs]])
    counts = np.bincount(place, minlength=len(rows)).astype(np.float32)
    return np.asarray(rows, np.int64), np.asarray(sums / counts[:, None], np.float32)

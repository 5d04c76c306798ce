"""Say how the sequential transformer comes to a version, and score with one."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from streamrec.config import TeachersConfig, TransformerConfig
from streamrec.state import ComponentState
from streamrec.teachers.batches import Sequences
from streamrec.teachers.protocol import Kind, window_request
from streamrec.teachers.train_loop import GENERATION, build_transformer, train_transformer
from streamrec.teachers.training import Place


class TransformerTeacher:
    """Score with the sequential transformer's state after the newest item; see `streamrec.teachers.protocol.LoadedTeacher`."""

    def __init__(self, state: ComponentState) -> None:
        shape = state.meta["shape"]
        self._length = int(shape["length"])
        self._num_items = int(state.meta["num_items"])
        self.generations = np.asarray(state.arrays.get(GENERATION, np.zeros(self._num_items, np.int32)))
        config = TransformerConfig(dim=shape["dim"], num_layers=shape["num_layers"], num_heads=shape["num_heads"], sequence_length=shape["length"])
        self._model = build_transformer(self.generations, config, state).eval()

    def score(self, histories: NDArray[np.int32], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return raw logits; a history of nothing but newer items gives -inf everywhere."""
        result = np.full((len(histories), len(candidates)), -np.inf, np.float32)
        num = int(np.searchsorted(candidates, self._num_items))
        is_whole = num == self._num_items  # Candidates ascend.
        with torch.no_grad():
            known = self._known(histories)
            last, sizes = self._last_states(known)
            rows = None if is_whole else torch.from_numpy(candidates[:num].astype(np.int64))
            result[:, :num] = self._model.logits(last, rows).numpy()
        self._add_own(result[:, :num], known, candidates[:num])
        free = np.flatnonzero(self.generations[candidates[:num]] < 0)
        result[:, free] = -np.inf
        result[sizes == 0] = -np.inf
        return result

    def represent(self, histories: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the state after each history's newest item."""
        with torch.no_grad():
            last, sizes = self._last_states(self._known(histories))
        return np.asarray(np.where(sizes[:, None] > 0, last.numpy(), np.float32(0)))

    def _known(self, histories: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the newest known items, newest first, -1 pads: at most as many as a sequence has."""
        known = np.where(histories < self._num_items, histories, np.int32(-1))
        order = np.argsort(known < 0, axis=1, kind="stable")  # Known items to the front, still newest first.
        return np.asarray(np.take_along_axis(known, order, 1)[:, : self._length])

    def _add_own(self, logits: NDArray[np.float32], known: NDArray[np.int32], candidates: NDArray[np.int32]) -> None:
        """Add to each own item's logit what it adds by how long ago it was."""
        if not len(candidates):
            return
        query, ago = np.nonzero(known >= 0)
        items = known[query, ago]
        place = np.minimum(np.searchsorted(candidates, items), len(candidates) - 1)
        is_asked = candidates[place] == items
        np.add.at(logits, (query[is_asked], place[is_asked]), self._model.own.detach().numpy()[ago[is_asked]])

    def _last_states(self, compact: NDArray[np.int32]) -> tuple[torch.Tensor, NDArray[np.int64]]:
        """Return the state after each history's newest item and how many known items it has; of like length go together, for little padding."""
        sizes = (compact >= 0).sum(1)
        position = np.arange(compact.shape[1])[None, :]
        oldest_first = np.take_along_axis(compact, np.where(position < sizes[:, None], sizes[:, None] - 1 - position, position), 1)
        sequences = torch.from_numpy(oldest_first.astype(np.int64))
        last = torch.zeros(len(sequences), self._model.items.weight.shape[1])
        order = np.argsort(sizes, kind="stable")
        for index in np.array_split(order, max(1, len(order) // 128)):
            if len(index):
                chosen, ends = torch.from_numpy(index), torch.from_numpy(np.maximum(sizes[index] - 1, 0))
                last[chosen] = self._model.states_at(sequences[chosen, : int(ends.max()) + 1], ends)
        return last, sizes


def _refresh(
    payload: ComponentState, previous: ComponentState | None, config: TeachersConfig, seed: int, place: Place | None
) -> tuple[ComponentState, dict[str, object]]:
    sequences = Sequences.of_state(payload)
    generations = payload.arrays.get(GENERATION, np.zeros(int(payload.meta["num_items"]), np.int32))  # Windows of before there were any.
    state, losses = train_transformer(sequences, generations, previous, config.transformer, seed, place)
    return state, {"loss_first": losses[0], "loss_last": losses[-1], "num_steps": len(losses), "num_sequences": len(sequences.rows)}


TRANSFORMER = Kind(window_request, _refresh, TransformerTeacher, on_ray_train=True)

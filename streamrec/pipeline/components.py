"""See all state as named components, wherever they live."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from streamrec.state import Component, ComponentState
from streamrec.workers import Pending, Worker

C = TypeVar("C")
S = TypeVar("S", bound=Component)


class WorkerComponent(Generic[C]):
    """A component inside a worker: ``pick`` finds it there."""

    def __init__(self, name: str, worker: Worker[C], pick: Callable[[C], Component]) -> None:
        self.name = name
        self._worker = worker
        self._pick = pick

    def begin_change(self, *, by_delta: bool) -> Pending[tuple[bool, ComponentState]]:
        """Ask for `change_of` without waiting: it is that of this moment, because the worker takes calls in order."""
        return self._worker.submit(_change, self._pick, by_delta)

    def snapshot(self) -> ComponentState:
        """Return the whole state."""
        return self._worker.submit(_snapshot, self._pick).result()

    def delta(self) -> ComponentState | None:
        """Return the change since the last snapshot or delta."""
        return self._worker.submit(_delta, self._pick).result()

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; see `streamrec.state.Component`."""
        self._worker.submit(_restore, self._pick, base, tuple(deltas)).result()

    def delete_user(self, namespace: str, user_id: str) -> int:
        """Remove the user and return how many entries went."""
        return self._worker.submit(_delete_user, self._pick, namespace, user_id).result()

    def forget_rows(self, rows: NDArray[np.int32]) -> int:
        """Remove what is kept under item rows and return how many entries went."""
        return self._worker.submit(_forget_rows, self._pick, rows).result()

    def digest(self) -> str:
        """Return the SHA-256 of the state, in hex."""
        return self._worker.submit(_digest, self._pick).result()


def change_of(component: Component, *, by_delta: bool) -> tuple[bool, ComponentState]:
    """Return (True, the delta) if one is wanted and the component has one, else (False, the snapshot)."""
    delta = component.delta() if by_delta else None
    return (True, delta) if delta is not None else (False, component.snapshot())


def itself(component: S) -> S:
    """Return what a worker holds, where that is the component."""
    return component


def _change(target: C, pick: Callable[[C], Component], by_delta: bool) -> tuple[bool, ComponentState]:
    return change_of(pick(target), by_delta=by_delta)


def _snapshot(target: C, pick: Callable[[C], Component]) -> ComponentState:
    return pick(target).snapshot()


def _delta(target: C, pick: Callable[[C], Component]) -> ComponentState | None:
    return pick(target).delta()


def _restore(target: C, pick: Callable[[C], Component], base: ComponentState, deltas: tuple[ComponentState, ...]) -> None:
    pick(target).restore(base, deltas)


def _delete_user(target: C, pick: Callable[[C], Component], namespace: str, user_id: str) -> int:
    return pick(target).delete_user(namespace, user_id)


def _forget_rows(target: C, pick: Callable[[C], Component], rows: NDArray[np.int32]) -> int:
    return pick(target).forget_rows(rows)


def _digest(target: C, pick: Callable[[C], Component]) -> str:
    return pick(target).digest()

"""Hold the versions that a board can hand out: one whole, what changed since, and another whole one where there is no way between both."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from streamrec.errors import Damaged
from streamrec.registry.deltas import Chain, Delta, apply
from streamrec.registry.version import digest_arrays
from streamrec.state import Arrays, ComponentState, num_bytes

Ref = TypeVar("Ref")


class _Spare(NamedTuple, Generic[Ref]):
    key: str
    arrays: Ref


class Holding(Generic[Ref]):
    """Keep versions as references to arrays and deltas; see `streamrec.registry.deltas.Chain` for the bounds.

    Args:
        put: Gives what is kept a reference.
        fetch: Returns what a reference stands for.

    **Contract.** One event loop. Arrays that are handed out are never written to.
    """

    def __init__(self, put: Callable[[Any], Ref], fetch: Callable[[Ref], Awaitable[Any]]) -> None:
        self._put, self._fetch = put, fetch
        self._chain: Chain[Ref] = Chain()
        # What was whole before the newest whole one, or what somebody needed that is not in the chain.
        self._spare: _Spare[Ref] | None = None
        self._making = asyncio.Lock()

    def begin(self, key: str, arrays: Arrays) -> None:
        """Hold a version that follows no other; one that came whole before it stays."""
        root = self._chain.root
        self._spare = _Spare(root.digest, root.whole) if root is not None and not len(self._chain) else None
        self._chain.begin(key, self._put(dict(arrays)), num_bytes(ComponentState(arrays)))

    def extend(self, delta: Delta) -> bool:
        """Hold the version that a delta makes of the newest one; False where it follows another one, or `renew` is overdue."""
        if delta.base != self._chain.tip or not self._chain.extend(delta.base, delta.digest, self._put(delta), delta.num_bytes):
            return False
        self._spare = None
        return True

    def is_long(self) -> bool:
        """Return whether it is time to ask for the newest version `whole`, so that there is room for more."""
        return self._chain.is_long()

    def deltas(self, held: Collection[str], key: str) -> Sequence[Ref] | None:
        """Return what makes a version of one of those that somebody holds, in order; None where there is no way."""
        return [] if key in held else self._chain.from_any(held, key)

    async def whole(self, key: str, load: Callable[[], Arrays]) -> Ref:
        """Return a version's arrays: as they came, made of the chain, which is shorter then, or by ``load`` in a thread.

        Raises:
            Damaged: What the chain makes has not the version's digest; the chain is let go of, so that the next version comes whole.
        """
        async with self._making:
            way, root = self._chain.from_root(key), self._chain.root
            if way is None or root is None:
                if self._spare is None or self._spare.key != key:
                    self._spare = _Spare(key, self._put(dict(await asyncio.to_thread(load))))
                return self._spare.arrays
            if not way:
                return root.whole
            arrays, deltas = await self._fetch(root.whole), [await self._fetch(delta) for delta in way]
            try:
                made = await asyncio.to_thread(_make, arrays, root.digest, deltas, key)
            except Damaged:
                self._chain = Chain()
                raise
            reference = self._put(made)
            self._chain.renew(key, reference, num_bytes(ComponentState(made)))
            return reference


def key_of(manifest: Mapping[str, Any]) -> str:
    """Return what a version is held under: its digest, its name where nobody has computed one."""
    return str(manifest.get("digest") or manifest["version"])


def _make(arrays: Arrays, base: str, deltas: Sequence[Delta], digest: str) -> Arrays:
    made, meta = apply(arrays, base, deltas, digest)
    if digest_arrays(made, meta) != digest:
        what = "Registry: a version that was made of deltas is not the one that its manifest describes"
        raise Damaged(what, allowed=digest[:12], do="nothing, the next one comes whole; report it if it comes again")
    return made

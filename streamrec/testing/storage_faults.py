"""Make a storage fail at a chosen call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from streamrec.clock import Clock
from streamrec.errors import StorageError
from streamrec.storage import Storage, Token


class FaultyStorage:
    """Pass calls on to a storage, and fail one of those that change something.

    Args:
        inner: Where the objects are.
        fail_at: Number of the failing call, from 0; None never fails.
        when: ``before`` the call had its effect, or ``after``, as when an answer is lost.
        is_crash: Fail all later calls too, as if the process had died.

    Attributes:
        num_calls: Changing calls so far.
    """

    def __init__(self, inner: Storage, fail_at: int | None = None, when: Literal["before", "after"] = "before", *, is_crash: bool = True) -> None:
        self._inner = inner
        self._fail_at = fail_at
        self._when = when
        self._is_crash = is_crash
        self.num_calls = 0
        self.num_bytes_written = 0

    @property
    def address(self) -> str:
        """Return the address of the storage behind."""
        return self._inner.address

    def read(self, key: str) -> bytes:
        """Read, unless crashed."""
        self._check_alive("read", key)
        return self._inner.read(key)

    def read_with_token(self, key: str) -> tuple[bytes, Token] | None:
        """Read, unless crashed."""
        self._check_alive("read", key)
        return self._inner.read_with_token(key)

    def write_new(self, key: str, data: bytes) -> bool:
        """Write, or fail when it is this call's turn."""
        fails = self._count("write", key)
        is_written = self._inner.write_new(key, data)
        self.num_bytes_written += len(data) if is_written else 0
        self._raise_if(fails, "write", key)
        return is_written

    def swap(self, key: str, new: bytes, expected: Token | None) -> Token | None:
        """Swap, or fail when it is this call's turn."""
        fails = self._count("swap", key)
        token = self._inner.swap(key, new, expected)
        self._raise_if(fails, "swap", key)
        return token

    def list(self, folder: str = "") -> Sequence[str]:
        """List, unless crashed."""
        self._check_alive("list", folder)
        return self._inner.list(folder)

    def delete(self, key: str) -> None:
        """Delete, or fail when it is this call's turn."""
        fails = self._count("delete", key)
        self._inner.delete(key)
        self._raise_if(fails, "delete", key)

    def exists(self, key: str) -> bool:
        """Look, unless crashed."""
        self._check_alive("look for", key)
        return self._inner.exists(key)

    def _count(self, action: str, key: str) -> bool:
        self._check_alive(action, key)
        number, self.num_calls = self.num_calls, self.num_calls + 1
        fails = number == self._fail_at
        self._raise_if(fails and self._when == "before", action, key)
        return fails

    def _check_alive(self, action: str, key: str) -> None:
        is_dead = self._is_crash and self._fail_at is not None and self.num_calls > self._fail_at
        self._raise_if(is_dead, action, key)

    def _raise_if(self, fails: bool, action: str, key: str) -> None:
        if fails:
            what = f"Storage: could not {action} {key} (a fault was injected)"
            raise StorageError(what, do="nothing, this is a test", injected=True)


class UnreachableStorage:
    """Pass calls on to a storage, except between two times of a clock, when every one fails.

    Args:
        inner: Where the objects are.
        clock: Its monotonic time counts.
        from_s: The outage's begin (inclusive).
        until_s: Its end (exclusive).
    """

    def __init__(self, inner: Storage, clock: Clock, from_s: float, until_s: float) -> None:
        self._inner = inner
        self._clock = clock
        self._from_s = from_s
        self._until_s = until_s

    @property
    def address(self) -> str:
        """Return the address of the storage behind."""
        return self._inner.address

    def read(self, key: str) -> bytes:
        """Read, if it is there."""
        return self._reached("read", key).read(key)

    def read_with_token(self, key: str) -> tuple[bytes, Token] | None:
        """Read, if it is there."""
        return self._reached("read", key).read_with_token(key)

    def write_new(self, key: str, data: bytes) -> bool:
        """Write, if it is there."""
        return self._reached("write", key).write_new(key, data)

    def swap(self, key: str, new: bytes, expected: Token | None) -> Token | None:
        """Swap, if it is there."""
        return self._reached("write", key).swap(key, new, expected)

    def list(self, folder: str = "") -> Sequence[str]:
        """List, if it is there."""
        return self._reached("list", folder).list(folder)

    def delete(self, key: str) -> None:
        """Delete, if it is there."""
        self._reached("delete", key).delete(key)

    def exists(self, key: str) -> bool:
        """Look, if it is there."""
        return self._reached("look for", key).exists(key)

    def _reached(self, action: str, key: str) -> Storage:
        if self._from_s <= self._clock.monotonic_s() < self._until_s:
            what = f"Storage: could not {action} {key} (nobody answers)"
            raise StorageError(what, do="nothing, this is a test", injected=True)
        return self._inner

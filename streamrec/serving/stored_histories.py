"""Keep users' histories in Redis or Valkey, where one machine's memory is too small for them; see `streamrec.serving.history_writer`.

One key holds one user's history as JSON: item ids and event times, oldest first. One replica at a time writes, under a lease; a write and how far
it reaches into the log are one step of Redis, and only who has the lease and knows how far the store was can take it.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import orjson

from streamrec.config import ServingConfig
from streamrec.errors import Fenced, StorageError
from streamrec.serving.redis_connection import RedisFacts, check_redis, connect, told_of

if TYPE_CHECKING:
    from redis import Redis

READER, WRITER, LEASE = "reader", "writer", "lease"
LEASE_S = 5.0
"""A writer that says nothing for so long has lost its place."""

User = tuple[str, str]
Offsets = dict[int, int]

_ROOT = "streamrec"
_CHUNK = 10_000
# KEYS: lease, offsets, users'. ARGV: whose lease, how far the store must be, how far it is then ("": no change), seconds to keep, values ("": gone).
_WRITE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if (redis.call('GET', KEYS[2]) or '') ~= ARGV[2] then return 0 end
for i = 3, #KEYS do
  if ARGV[i + 2] == '' then redis.call('DEL', KEYS[i]) else redis.call('SET', KEYS[i], ARGV[i + 2], 'EX', ARGV[4]) end
end
if ARGV[3] ~= '' then redis.call('SET', KEYS[2], ARGV[3]) end
return 1
"""
_RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) else return 0 end"
_LEAVE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end"


@dataclass(frozen=True, slots=True)
class Entries:
    """Hold a user's history, oldest first.

    Attributes:
        item_ids: Of the user's namespace.
        times: Event time of each in ms UTC.
    """

    item_ids: tuple[str, ...] = ()
    times: tuple[int, ...] = ()

    def to_json(self) -> bytes:
        """Return it as it is stored."""
        return orjson.dumps([self.item_ids, self.times])

    @classmethod
    def parse(cls, stored: bytes | None) -> Entries:
        """Return what is stored.

        Raises:
            StorageError: It was not written by streamrec.
        """
        if stored is None:
            return cls()
        try:
            item_ids, times = orjson.loads(stored)
            return cls(tuple(item_ids), tuple(times))
        except (ValueError, TypeError) as error:
            what = "Histories: what Redis holds of a user can't be read"
            raise StorageError(
                what, got=f"{len(stored)} bytes of something else", do="give streamrec a database of its own (serving.redis_url)"
            ) from error


class StoredHistories:
    """Read and write the histories of one lineage.

    Args:
        config: Where Redis is.
        lineage: Whose histories; those of others are not touched.
        family: What this lineage and those before it are of: a deletion reaches them all.

    **Contract.** `read` belongs to event loops, `answer_reads` to one thread, all else to others. Only the holder of the lease writes; ``num_leases``
    counts how often it was taken, and whoever was given another one must begin anew.

    Raises:
        ConfigError: The extra ``redis`` is not installed, or the password's file can't be read.
    """

    def __init__(self, config: ServingConfig, lineage: str, family: str = "") -> None:
        check_redis(config)
        self.address = config.redis_url
        self.holds_lease = False
        self.num_leases = 0
        self.last_error = ""
        self.read_error = ""
        self.num_unread = 0
        self._config = config
        self._keep_s = max(1, round(config.histories_keep_s))
        self._token = secrets.token_hex(16)
        self._prefix = prefix_of(lineage)
        self._lineages = f"{prefix_of(family or lineage)}:lineages"
        self._lease, self._ends = f"{self._prefix}:writer", f"{self._prefix}:offsets"
        self._clients: dict[str, Redis] = {}
        self._asked: SimpleQueue[tuple[User, asyncio.AbstractEventLoop, asyncio.Future[tuple[Entries, Offsets]]]] = SimpleQueue()

    async def read(self, namespace: str, user_id: str) -> tuple[Entries, Offsets]:
        """Return a user's history, empty of an unknown one, and how far the store reaches.

        Raises:
            StorageError: Redis does not answer in ``redis_timeout_s``, or nobody has filled it yet.
        """
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[tuple[Entries, Offsets]] = loop.create_future()
        self._asked.put(((namespace, user_id), loop, waiting))
        try:
            return await waiting
        except StorageError:
            self.num_unread += 1
            raise

    def answer_reads(self, wait_s: float = 0.5) -> None:
        """Read for all who wait in `read`, in one command; return when they are answered, or nobody came.

        In a thread of its own: how late Redis is says nothing of how late the event loop is, which answers requests meanwhile.
        """
        try:
            asked = [self._asked.get(timeout=wait_s)]
        except Empty:
            return
        while len(asked) < _CHUNK and not self._asked.empty():
            asked.append(self._asked.get_nowait())
        found: Sequence[tuple[Entries, Offsets] | StorageError]
        try:
            found = self._read([user for user, _, _ in asked])
        except StorageError as error:
            found = [error] * len(asked)
        for loop in {id(loop): loop for _, loop, _ in asked}.values():
            mine = [(number, waiting) for number, (_, its, waiting) in enumerate(asked) if its is loop]
            with suppress(RuntimeError):  # The loop has ended, and nobody waits.
                loop.call_soon_threadsafe(_deliver, mine, found)

    def _read(self, users: Sequence[User]) -> Sequence[tuple[Entries, Offsets] | StorageError]:
        from redis.exceptions import AuthenticationError  # noqa: PLC0415 - an extra

        try:
            found = self._read_once(users)
        except StorageError as error:
            self.read_error = str(error)
            if not isinstance(error.__cause__, AuthenticationError):
                raise
            found = self._read_once(users)  # By what the password's file holds now.
        self.read_error = ""
        return found

    def _read_once(self, users: Sequence[User]) -> Sequence[tuple[Entries, Offsets] | StorageError]:
        with self._explained(READER):
            told: Any = self._client(READER).mget([self._ends, *(self._key(self._prefix, user) for user in users)])
        ends, *stored = told
        if ends is None:
            what = "Histories: Redis has none yet"
            raise StorageError(what, got=f"no {self._ends} at {self.address}", do="wait until a replica has filled it")
        offsets = _parse_offsets(ends)
        found: list[tuple[Entries, Offsets] | StorageError] = []
        for one in stored:
            try:
                found.append((Entries.parse(one), offsets))
            except StorageError as error:  # Of this user; the others have theirs.
                found.append(error)
        return found

    def hold_lease(self) -> bool:
        """Take the lease, or renew one's own, for `LEASE_S`; return whether it is held.

        Raises:
            StorageError: Redis does not answer; the lease counts as lost.
        """
        millis, holds = int(LEASE_S * 1000), False
        try:
            with self._explained(LEASE):
                client = self._client(LEASE)
                holds = bool(client.eval(_RENEW, 1, self._lease, self._token, millis))
                if not holds:
                    # Also where it was held and is gone: Redis may have lost more than the lease.
                    holds = bool(client.set(self._lease, self._token, px=millis, nx=True))
                    self.num_leases += holds
                    client.sadd(self._lineages, self._prefix)
        finally:
            self.holds_lease = holds
        self.last_error = ""
        return holds

    def leave(self) -> None:
        """Give the lease back, so that another replica need not wait for its end, and close the connections."""
        self.holds_lease, clients, self._clients = False, self._clients, {}
        try:
            if (client := clients.get(LEASE)) is not None:
                with self._explained(LEASE):
                    client.eval(_LEAVE, 1, self._lease, self._token)
        finally:
            for one in clients.values():
                one.close()

    def offsets(self) -> Offsets | None:
        """Return {partition: next offset that the histories do not contain}; None when nobody has filled the store."""
        with self._explained(WRITER):
            stored = self._client(WRITER).get(self._ends)
        return None if stored is None else _parse_offsets(stored)

    def fetch(self, users: Sequence[User]) -> dict[User, Entries]:
        """Return users' histories, empty ones too."""
        found: dict[User, Entries] = {}
        for first in range(0, len(users), _CHUNK):
            some = users[first : first + _CHUNK]
            with self._explained(WRITER):
                stored: Any = self._client(WRITER).mget([self._key(self._prefix, user) for user in some])
            found.update(zip(some, map(Entries.parse, stored), strict=True))
        return found

    def write(self, changed: Mapping[User, Entries], at: Offsets | None, then: Offsets | None = None) -> None:
        """Replace users' histories in one step, and say how far they reach.

        Args:
            changed: The new histories; an empty one is no key.
            at: How far the store reaches now, as this writer knows it; None for a store that nobody has filled.
            then: How far afterwards; None changes nothing, so that what is written may be written again.

        Raises:
            Fenced: Another writer has the lease, or the store is not where it was.
            StorageError: Redis does not answer; the step was taken or was not.
        """
        keys = [self._key(self._prefix, user) for user in changed]
        values = [entries.to_json() if entries.item_ids else b"" for entries in changed.values()]
        ends = [b"" if offsets is None else _offsets_json(offsets) for offsets in (at, then)]
        with self._explained(WRITER):
            done = self._client(WRITER).eval(_WRITE, 2 + len(keys), self._lease, self._ends, *keys, self._token, *ends, self._keep_s, *values)
        if not done:
            self.holds_lease = False
            what = "Histories: another replica writes them now, or Redis has lost some"
            raise Fenced(what, do="nothing: whoever has the lease goes on from what Redis has")

    def facts(self) -> RedisFacts:
        """Return what matters of this Redis, once it has let us do all that a server does."""
        with self._explained(WRITER):
            client, key = self._client(WRITER), f"{_ROOT}:doctor:{self._token}"
            client.eval("redis.call('SET', KEYS[1], ARGV[1], 'EX', 10) return redis.call('GET', KEYS[1])", 1, key, "here")
            client.mget([key])
            client.eval(_RENEW, 1, key, "here", 10_000)
            client.delete(key)
            client.set(key, "here", px=10_000, nx=True)
            client.get(key)
            client.delete(key)
            client.sadd(key, "here")
            client.smembers(key)
            client.delete(key)
            client.scan(match=key, count=1)
            told: Any = client.info()
        return RedisFacts(
            version=str(told.get("redis_version", "")),
            is_cluster=bool(told.get("cluster_enabled", 0)),
            max_bytes=int(told.get("maxmemory", 0)),
            policy=str(told.get("maxmemory_policy", "")),
        )

    def forget(self, users: Iterable[User]) -> None:
        """Take out users in the other lineages of the family, which nothing serves any more."""
        with self._explained(WRITER):
            client = self._client(WRITER)
            lineages: Any = client.smembers(self._lineages)
            prefixes = [prefix.decode() for prefix in lineages]
            keys = [self._key(prefix, user) for user in users for prefix in prefixes if prefix != self._prefix]
            for first in range(0, len(keys), _CHUNK):
                client.delete(*keys[first : first + _CHUNK])

    def clear(self) -> None:
        """Take out all histories of this lineage, so that none is left of a user who has been deleted since."""
        with self._explained(WRITER):
            client = self._client(WRITER)
            client.delete(self._ends)
            keys: list[bytes] = []
            for key in client.scan_iter(match=f"{self._prefix}:*", count=1000):
                if key != self._lease.encode():
                    keys.append(key)
                if len(keys) == _CHUNK:
                    client.delete(*keys)
                    keys = []
            if keys:
                client.delete(*keys)

    @staticmethod
    def _key(prefix: str, user: User) -> bytes:
        # The length first, so that no two users have one key; lease and offsets have none.
        return f"{prefix}:{len(user[0])}:{user[0]}:{user[1]}".encode()

    def _client(self, name: str) -> Redis:
        """Return a connection of a thread, made anew after a refusal: the password may be another one by now."""
        made = self._clients.get(name)
        if made is None:
            is_reader = name == READER
            made = self._clients[name] = connect(self._config, self._config.redis_timeout_s if is_reader else LEASE_S / 2, repeats=is_reader)
        return made

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        from redis.exceptions import AuthenticationError, RedisError  # noqa: PLC0415 - an extra

        try:
            yield
        except (RedisError, OSError) as error:
            if isinstance(error, AuthenticationError) and (refused := self._clients.pop(name, None)) is not None:
                refused.close()
            self.last_error = f"{type(error).__name__}: {error}"
            what = f"Histories: {told_of(error)}"
            do = "see that it runs and lets this server in (serving.redis_url, serving.redis_password_file)"
            raise StorageError(what, got=f"{self.address}: {self.last_error}", do=do) from error


def look_at_redis(config: ServingConfig) -> RedisFacts:
    """Return what matters of the configured Redis.

    Raises:
        ConfigError: See `check_redis`.
        StorageError: It does not answer, or refuses.
    """
    store = StoredHistories(config, "")
    try:
        return store.facts()
    finally:
        store.leave()


def prefix_of(lineage: str) -> str:
    """Return what the keys of a lineage begin with."""
    return f"{_ROOT}:{hashlib.sha256(lineage.encode()).hexdigest()[:16]}"


def _deliver(mine: Sequence[tuple[int, asyncio.Future[Any]]], found: Sequence[tuple[Entries, Offsets] | StorageError]) -> None:
    for number, waiting in mine:
        if waiting.done():  # Whoever asked has left.
            continue
        if isinstance(mine_found := found[number], StorageError):
            waiting.set_exception(mine_found)
        else:
            waiting.set_result(mine_found)


def _parse_offsets(stored: Any) -> Offsets:
    try:
        return {int(partition): end for partition, end in orjson.loads(stored).items()}
    except (ValueError, AttributeError) as error:
        what = "Histories: how far Redis is can't be read"
        raise StorageError(
            what, got=f"{len(stored)} bytes of something else", do="give streamrec a database of its own (serving.redis_url)"
        ) from error


def _offsets_json(offsets: Offsets) -> bytes:
    return orjson.dumps({str(partition): offsets[partition] for partition in sorted(offsets)})

"""Keep users' histories in Redis or Valkey, where one machine's memory is too small for them; see `streamrec.serving.history_writer`.

One key holds one user's history as JSON: item ids and event times, oldest first. One replica at a time writes, under a lease; a write and how far
it reaches into the log are one step of Redis, and only who has the lease and knows how far the store was can take it.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from streamrec.config import ServingConfig
from streamrec.environment import redis_password
from streamrec.errors import ConfigError, Fenced, StorageError

if TYPE_CHECKING:
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

HAS_REDIS = importlib.util.find_spec("redis") is not None
"""Whether the extra ``redis`` is installed."""

LEASE_S = 5.0
"""A writer that says nothing for so long has lost its place."""

User = tuple[str, str]
Offsets = dict[int, int]

_ROOT = "streamrec"
_LINEAGES = f"{_ROOT}:lineages"
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
            raise StorageError(what, got=repr(stored[:40]), do="give streamrec a database of its own (serving.redis_url)") from error


class StoredHistories:
    """Read and write the histories of one lineage.

    Args:
        config: Where Redis is.
        lineage: Whose histories; those of others are not touched, but by deletions.

    **Contract.** `read` belongs to one event loop, all else to threads. Only the holder of the lease writes; ``num_leases`` counts how often it was
    taken, and whoever was given another one must begin anew.

    Raises:
        ConfigError: The extra ``redis`` is not installed, or the password's file can't be read.
    """

    def __init__(self, config: ServingConfig, lineage: str) -> None:
        check_redis(config)
        self.address = config.redis_url
        self.holds_lease = False
        self.num_leases = 0
        self.last_error = ""
        self.num_unread = 0
        self._timeout_s = config.redis_timeout_s
        self._keep_s = max(1, round(config.histories_keep_s))
        self._options = _options(config)
        self._token = secrets.token_hex(16)
        self._prefix = prefix_of(lineage)
        self._lease, self._ends = f"{self._prefix}:writer", f"{self._prefix}:offsets"
        self._sync: Redis | None = None
        self._async: tuple[AsyncRedis, asyncio.AbstractEventLoop] | None = None
        self._asked: list[tuple[User, asyncio.Future[Entries]]] = []
        self._asking: asyncio.Task[None] | None = None

    async def read(self, namespace: str, user_id: str) -> Entries:
        """Return a user's history, empty of an unknown one.

        Raises:
            StorageError: Redis does not answer in ``redis_timeout_s``, or nobody has filled it yet.
        """
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[Entries] = loop.create_future()
        self._asked.append(((namespace, user_id), waiting))
        if self._asking is None or self._asking.done():
            self._asking = loop.create_task(self._ask())
        try:
            with self._explained():
                async with asyncio.timeout(self._timeout_s):
                    return await waiting
        except StorageError:
            self.num_unread += 1
            raise

    def hold_lease(self) -> bool:
        """Take the lease, or renew one's own, for `LEASE_S`; return whether it is held.

        Raises:
            StorageError: Redis does not answer; the lease counts as lost.
        """
        millis, holds = int(LEASE_S * 1000), False
        try:
            with self._explained():
                client = self._writer()
                holds = bool(client.eval(_RENEW, 1, self._lease, self._token, millis))
                if not holds:
                    # Also where it was held and is gone: Redis may have lost more than the lease.
                    holds = bool(client.set(self._lease, self._token, px=millis, nx=True))
                    self.num_leases += holds
                    client.sadd(_LINEAGES, self._prefix)
        finally:
            self.holds_lease = holds
        self.last_error = ""
        return holds

    def leave(self) -> None:
        """Give the lease back, so that another replica need not wait for its end, and close the connections of threads."""
        self.holds_lease, client, self._sync = False, self._sync, None
        if client is None:
            return
        try:
            with self._explained():
                client.eval(_LEAVE, 1, self._lease, self._token)
        finally:
            client.close()

    async def close(self) -> None:
        """Close the connection of `read`."""
        if self._async is not None:
            (client, _), self._async = self._async, None
            await client.aclose()

    def offsets(self) -> Offsets | None:
        """Return {partition: next offset that the histories do not contain}; None when nobody has filled the store."""
        with self._explained():
            stored = self._writer().get(self._ends)
        return None if stored is None else {int(partition): end for partition, end in orjson.loads(stored).items()}

    def fetch(self, users: Sequence[User]) -> dict[User, Entries]:
        """Return users' histories, empty ones too."""
        found: dict[User, Entries] = {}
        for first in range(0, len(users), _CHUNK):
            some = users[first : first + _CHUNK]
            with self._explained():
                stored: Any = self._writer().mget([self._key(self._prefix, user) for user in some])
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
        with self._explained():
            done = self._writer().eval(_WRITE, 2 + len(keys), self._lease, self._ends, *keys, self._token, *ends, self._keep_s, *values)
        if not done:
            self.holds_lease = False
            what = "Histories: another replica writes them now, or Redis has lost some"
            raise Fenced(what, do="nothing: whoever has the lease goes on from what Redis has")

    def facts(self) -> RedisFacts:
        """Return what matters of this Redis."""
        with self._explained():
            told: Any = self._writer().info()
        return RedisFacts(
            version=str(told.get("redis_version", "")),
            is_cluster=bool(told.get("cluster_enabled", 0)),
            max_bytes=int(told.get("maxmemory", 0)),
            policy=str(told.get("maxmemory_policy", "")),
        )

    def forget(self, users: Iterable[User]) -> None:
        """Take out users in all lineages: also those that nothing serves any more."""
        with self._explained():
            client = self._writer()
            lineages: Any = client.smembers(_LINEAGES)
            prefixes = [prefix.decode() for prefix in lineages]
            keys = [self._key(prefix, user) for user in users for prefix in prefixes if prefix != self._prefix]
            for first in range(0, len(keys), _CHUNK):
                client.delete(*keys[first : first + _CHUNK])

    def clear(self) -> None:
        """Take out all histories of this lineage, so that none is left of a user who has been deleted since."""
        with self._explained():
            client = self._writer()
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

    async def _ask(self) -> None:
        """Ask for all who came while the ones before were asked for, in one command of one connection."""
        while self._asked:
            asked, self._asked = self._asked[:_CHUNK], self._asked[_CHUNK:]
            try:
                with self._explained():
                    found: Any = await self._reader().mget([self._ends, *(self._key(self._prefix, user) for user, _ in asked)])
                ends, *stored = found
                if ends is None:
                    what = "Histories: Redis has none yet"
                    raise StorageError(what, got=f"no {self._ends} at {self.address}", do="wait until a replica has filled it")
                entries = [Entries.parse(one) for one in stored]
            except StorageError as error:
                for _, waiting in asked:
                    if not waiting.done():
                        waiting.set_exception(error)
            else:
                for (_, waiting), mine in zip(asked, entries, strict=True):
                    if not waiting.done():
                        waiting.set_result(mine)

    def _reader(self) -> AsyncRedis:
        from redis.asyncio import Redis as AsyncRedis  # noqa: PLC0415 - an extra
        from redis.asyncio.retry import Retry  # noqa: PLC0415 - an extra
        from redis.backoff import NoBackoff  # noqa: PLC0415 - an extra

        loop = asyncio.get_running_loop()
        if self._async is None or self._async[1] is not loop:
            waits: dict[str, Any] = {"socket_timeout": self._timeout_s, "socket_connect_timeout": self._timeout_s}
            # Once more at once: a connection that was idle may have been closed by the other side.
            self._async = AsyncRedis.from_url(self.address, retry=Retry(NoBackoff(), 1), **waits, **self._options), loop
        return self._async[0]

    def _writer(self) -> Redis:
        from redis import Redis  # noqa: PLC0415 - an extra
        from redis.backoff import NoBackoff  # noqa: PLC0415 - an extra
        from redis.retry import Retry  # noqa: PLC0415 - an extra

        if self._sync is None:
            waits: dict[str, Any] = {"socket_timeout": LEASE_S, "socket_connect_timeout": LEASE_S / 2}
            self._sync = Redis.from_url(self.address, retry=Retry(NoBackoff(), 0), **waits, **self._options)
        return self._sync

    @contextmanager
    def _explained(self) -> Iterator[None]:
        from redis.exceptions import RedisError  # noqa: PLC0415 - an extra

        try:
            yield
        except (RedisError, OSError) as error:
            self.last_error = f"{type(error).__name__}: {error}"
            what = "Histories: Redis does not answer, or refuses"
            got = f"{self.address}: {self.last_error or 'too late'}"
            do = "see that it runs and lets this server in (serving.redis_url, serving.redis_password_file)"
            raise StorageError(what, got=got, do=do) from error


def check_redis(config: ServingConfig) -> None:
    """Return where histories can be kept in Redis on this machine, as far as that can be said without it.

    Raises:
        ConfigError: The extra ``redis`` is not installed, or the password's file can't be read.
    """
    if not HAS_REDIS:
        what = "Histories: Redis needs the extra 'redis'"
        raise ConfigError(what, got="serving.histories = 'redis'", do="run `pip install 'streamrec[redis]'` on each node", key="serving.histories")
    _options(config)


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """Hold what matters of a Redis.

    Attributes:
        version: Its own, of what it is compatible with.
        is_cluster: Whether its keys lie on several machines.
        max_bytes: How much it may hold; 0 for as much as there is.
        policy: What goes when that is reached, as Redis calls it.
    """

    version: str
    is_cluster: bool
    max_bytes: int
    policy: str


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


def _offsets_json(offsets: Offsets) -> bytes:
    return orjson.dumps({str(partition): offsets[partition] for partition in sorted(offsets)})


def _options(config: ServingConfig) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if config.redis_url.startswith("rediss://") and config.redis_ca_file:
        options["ssl_ca_certs"] = config.redis_ca_file
    password = redis_password()
    if config.redis_password_file:
        try:
            password = Path(config.redis_password_file).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            what, got = "Histories: the password's file can't be read", f"{config.redis_password_file} ({type(error).__name__})"
            raise ConfigError(what, got=got, do="correct serving.redis_password_file: each node that serves needs the file") from None
    return options if password is None else {**options, "password": password}

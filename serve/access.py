"""Decide who may do what, and how often: the one place that every route asks before it does anything."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from serve.http import Headers, Refusal, Scope, header
from serve.limits import TokenBucket, again_after
from serve.origins import Origins
from streamrec.clock import Clock, SystemClock
from streamrec.config.keys import ApiKey, digest_of
from streamrec.events.schema import Kind

logger = logging.getLogger(__name__)

_CALLER = "streamrec.caller"
_BEARER = b"bearer "
_SHOWN = 5
_TELL_HOW: Headers = [(b"www-authenticate", b"Bearer")]
_HOW = "authorization: Bearer KEY, or x-api-key: KEY"


class Action(StrEnum):
    """Name what a route does."""

    PROBE = "probe"
    ASK = "ask"
    READ = "read"
    WRITE = "write"
    DELETE_USERS = "delete_users"
    MOVE_MODELS = "move_models"


SCOPE_OF = {Action.ASK: "answers", Action.READ: "read", Action.WRITE: "events", Action.DELETE_USERS: "admin", Action.MOVE_MODELS: "admin"}
"""The scope of a key that each action takes; a probe takes no key. ``read`` includes ``answers``, ``admin`` includes ``read``."""

# Who moves models looks at them.
_WIDER = {Action.ASK: ("read", "admin"), Action.READ: ("admin",)}

_REMEDIES = {
    Action.MOVE_MODELS: "nor turn the stream's switches: use the command line (`streamrec rollback`, `pin`, `pause`), "
    "or set serving.keys_file or serving.remote_promotion",
    Action.DELETE_USERS: "send the deletion to the log itself, or set serving.keys_file",
}
_ALLOWED = "a server on loopback, or a key with scope admin"


@dataclass(frozen=True)
class Caller:
    """Say who asks.

    Attributes:
        name: The key's name; None where no keys are configured.
        scopes: What the key may do; None asks for none.
        namespaces: In these alone; None in all.
        deletes: Whether users may be deleted.
        moves: Whether models may be moved.
    """

    name: str | None = None
    scopes: frozenset[str] | None = None
    namespaces: frozenset[str] | None = None
    deletes: bool = False
    moves: bool = False

    def enter(self, namespace: str) -> None:
        """Return when the caller may ask in the namespace.

        Raises:
            Refusal: The key is for others.
        """
        if self.namespaces is not None and namespace not in self.namespaces:
            raise Refusal(403, "namespace", namespace, self.allowed_namespaces, "Access: this key is for other namespaces")

    def enter_all(self) -> None:
        """Return when the caller may ask in every namespace: what is told of the machine is told of all.

        Raises:
            Refusal: The key is for some.
        """
        if self.namespaces is not None:
            what = "Access: this tells of all namespaces, and this key is for some"
            raise Refusal(403, "authorization", f"a key for {self.allowed_namespaces}", "a key for all namespaces", what)

    @property
    def allowed_namespaces(self) -> str:
        """Return the caller's namespaces for a refusal, the first few."""
        names = sorted(self.namespaces or ())
        return ", ".join([*names[:_SHOWN], *(["…"] if len(names) > _SHOWN else [])]) or "all"

    def visible(self, namespaces: Collection[str]) -> list[str]:
        """Return those of some namespaces that the caller may know of."""
        return [name for name in namespaces if self.namespaces is None or name in self.namespaces]


@dataclass
class EventPermit:
    """Judge each event of a request by what the codec made of it; an `event_sink.Permit`.

    Attributes:
        caller: Who sends them.
        num_deletions: So many deletions were let pass.
    """

    caller: Caller
    num_deletions: int = 0

    def __call__(self, kind: str, namespace: str) -> str | None:
        """Return why the event may not be appended, None if it may."""
        caller = self.caller
        if caller.namespaces is not None and namespace not in caller.namespaces:
            return f"namespace: got {namespace!r}, allowed {caller.allowed_namespaces} with this key"
        if kind == Kind.DELETION:
            if not caller.deletes:
                return f"kind: got deletion, allowed with {_ALLOWED}"
            self.num_deletions += 1
        return None


@dataclass
class _Known:
    digest: bytes
    key: ApiKey
    caller: Caller
    bucket: TokenBucket | None


@dataclass
class Access:
    """Let the bearers of keys do what their keys say. Without keys all who reach the server read and write, and those of this machine do anything.

    Args:
        keys: By name, the first ones; none asks nobody for one.
        is_local: Whether the server is known to listen on loopback alone.
        moves_models: Whether models may be promoted and rolled back by whoever reaches a server without keys that is not local.
        clock: For rates.
        origins: Pages that may change something where no keys are asked for, though they come from elsewhere; see `Origins`.
    """

    keys: Mapping[str, ApiKey] = field(default_factory=dict)
    is_local: bool = False
    moves_models: bool = False
    clock: Clock = field(default_factory=SystemClock)
    origins: Collection[str] = ()

    def __post_init__(self) -> None:
        self._origins = Origins(self.origins)
        self._anybody = Caller(deletes=self.is_local, moves=self.is_local or self.moves_models)
        self._known: dict[str, _Known] = {}
        self.replace(self.keys)

    def replace(self, keys: Mapping[str, ApiKey]) -> None:
        """Let these keys count from now on, and no others; may be called by another thread than the one that asks."""
        before = self._known
        known = {}
        for name, key in keys.items():
            is_admin = "admin" in key.scopes
            # A model answers for all namespaces.
            caller = Caller(name, frozenset(key.scopes), frozenset(key.namespaces) or None, is_admin, is_admin and not key.namespaces)
            bucket = TokenBucket(key.rate, key.burst or max(1, round(key.rate))) if key.rate else None
            old = before.get(key.sha256)
            if old is not None and (old.key.rate, old.key.burst) == (key.rate, key.burst):
                bucket = old.bucket  # What it has used up stays used up.
            known[key.sha256] = _Known(key.sha256.encode(), key, caller, bucket)
        # In one step: a request sees the keys of before or of now.
        self._known = known

    @property
    def asks_for_keys(self) -> bool:
        """Return whether requests need a key."""
        return bool(self._known)

    def identify(self, scope: Scope) -> Caller:
        """Return who asks; a second time for the same request the same, without counting it again.

        Raises:
            Refusal: The request has no key that is known, or the key's requests come too fast; or no key is asked for, and it came by a name that
                is not this server's.
        """
        found: Caller | None = scope.get(_CALLER)
        if found is None:
            found = scope[_CALLER] = self._bearer(scope) if self._known else self._nobody(scope)
        return found

    def check(self, scope: Scope, action: Action) -> None:
        """Return when the request may do this; called before it is done.

        Raises:
            Refusal: It may not.
        """
        if action is Action.PROBE:
            return
        caller = self.identify(scope)
        if action not in {Action.ASK, Action.READ} and not self._known:
            self._origins.check_page(scope)
        if caller.scopes is not None and not {SCOPE_OF[action], *_WIDER.get(action, ())} & caller.scopes:
            got, allowed = f"a key with {', '.join(sorted(caller.scopes))}", f"a key with scope {SCOPE_OF[action]}"
            raise Refusal(403, "authorization", got, allowed, "Access: this key does not have the scope that this takes")
        if action is Action.MOVE_MODELS and caller.namespaces is not None:
            what = "Access: this key may not move models, which answer for all namespaces"
            raise Refusal(403, "authorization", f"a key for {caller.allowed_namespaces}", "a key for all namespaces", what)
        if (action is Action.MOVE_MODELS and not caller.moves) or (action is Action.DELETE_USERS and not caller.deletes):
            what = f"Access: this server does not {action.replace('_', ' ')} by HTTP, {_REMEDIES[action]}"
            raise Refusal(403, "path", scope["path"][:200], _ALLOWED, what)

    def _nobody(self, scope: Scope) -> Caller:
        if self.is_local:  # Else its names are not known, and whoever reaches it may read.
            self._origins.check_host(scope)
        return self._anybody

    def _bearer(self, scope: Scope) -> Caller:
        given = header(scope, b"authorization") or b""
        key = given[len(_BEARER) :].strip() if given[: len(_BEARER)].lower() == _BEARER else header(scope, b"x-api-key") or b""
        if not key:
            raise Refusal(401, "authorization", "no key", _HOW, "Access: this server asks for a key", _TELL_HOW)
        # Looked up by the digest, so what the time of a miss tells is about digests of guesses, not about keys.
        digest = digest_of(key)
        known = self._known.get(digest)
        if known is None or not hmac.compare_digest(known.digest, digest.encode()):
            raise Refusal(401, "authorization", "an unknown key", _HOW, "Access: nobody has this key", _TELL_HOW)
        wait_s = known.bucket.take(self.clock.monotonic_s()) if known.bucket is not None else 0.0
        if wait_s:
            what = f"Access: the requests of this key come too fast for a replica, send again in {wait_s:.3g} s"
            raise Refusal(429, "rate", "more", f"{known.key.rate:g} requests a second", what, again_after(wait_s))
        return known.caller


def caller_of(scope: Scope) -> Caller:
    """Return who asks, of a request that was let in."""
    found: Caller = scope[_CALLER]
    return found


def audit(caller: Caller, what: str, request_id: str) -> None:
    """Write a line to the log about something that was asked for and can't be undone by asking again."""
    # A warning, because a replica's log shows nothing below by default.
    who = f"key {caller.name!r}" if caller.name is not None else "nobody named"
    logger.warning("Audit: %s, asked by %s, request %r", what, who, request_id, extra={"request_id": request_id})

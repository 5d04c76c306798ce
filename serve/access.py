"""Decide who may do what: the one place that every route asks before it does anything."""

from __future__ import annotations

from enum import StrEnum

from serve.http import Refusal, Scope


class Action(StrEnum):
    """Name what a route does."""

    READ = "read"
    WRITE = "write"
    MOVE_MODELS = "move_models"


class Access:
    """Let everybody who reaches the server read and write, and move models where that is allowed.

    Args:
        moves_models: Whether models may be promoted and rolled back by HTTP: where the server listens on loopback alone, or was told so.
    """

    def __init__(self, *, moves_models: bool) -> None:
        self._moves_models = moves_models

    def check(self, scope: Scope, action: Action) -> None:
        """Return when the request may do this; called before it is done.

        Raises:
            Refusal: It may not.
        """
        if action is Action.MOVE_MODELS and not self._moves_models:
            what = "Models: this server does not let models be moved by HTTP, use `streamrec rollback`, or set serving.remote_promotion"
            allowed = "a server on loopback, or serving.remote_promotion = true"
            raise Refusal(403, "path", scope["path"][:200], allowed, what)

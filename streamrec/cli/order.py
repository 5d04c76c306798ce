"""Put the verbs in the order in which one needs them: a new one gets its place here."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

ORDER = (
    *("init", "dev", "demo", "plan", "doctor", "replay", "items", "backtest"),  # Before it runs, and to see it run.
    *("recommend", "explain", "status", "report", "models", "worth"),  # See it.
    *("rollback", "pin", "unpin", "pause", "resume", "freeze-publishing", "unfreeze-publishing", "switches", "refresh"),  # Hold it.
    *("dlq", "quarantine", "delete-user", "receipt", "lake"),  # Mend it.
    *("config", "schema", "key", "version"),
)


class InOrder(TyperGroup):
    """List verbs in `ORDER`; what has no place there comes last."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the verbs."""
        places = {name: at for at, name in enumerate(ORDER)}
        return sorted(super().list_commands(ctx), key=lambda name: places.get(name, len(ORDER)))

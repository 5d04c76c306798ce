"""Put the verbs in the order in which one needs them: a new one gets its place here. What all of them share is around it."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

from streamrec.cli.output import told_output

ORDER = (
    *("init", "dev", "demo", "serve", "plan", "doctor", "replay", "items", "backtest"),  # Before it runs, and to see it run.
    *("recommend", "explain", "status", "report", "models", "worth"),  # See it.
    *("rollback", "pin", "unpin", "pause", "resume", "freeze-publishing", "unfreeze-publishing", "switches", "refresh"),  # Hold it.
    *("dlq", "quarantine", "delete-user", "receipt", "lake"),  # Mend it.
    *("config", "schema", "key", "version"),
)


class InOrder(TyperGroup):
    """List verbs in `ORDER`, what has no place there last, and run one of them."""

    def main(self, *given: Any, **more: Any) -> Any:
        """Run a command line as any group does, with an output that says why it can't be written."""
        with told_output():
            return super().main(*given, **more)

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the verbs."""
        places = {name: at for at, name in enumerate(ORDER)}
        return sorted(super().list_commands(ctx), key=lambda name: places.get(name, len(ORDER)))

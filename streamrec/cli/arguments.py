"""Name the arguments that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Default: $STREAMREC_CONFIG, then ./streamrec.toml.")]
Student = Annotated[str, typer.Option("--student", metavar="NAME", help="A further student of the configuration.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, such as student.dim=32.")]
Mapping = Annotated[
    str | None, typer.Option("--map", metavar="FIELD=COLUMN,…", help="The columns of a file of an unknown format; quote a part that has a comma.")
]
Broker = Annotated[
    str | None,
    typer.Option("--to", metavar="BROKER", help="HOST:PORT, local:///FOLDER, auto, embedded or local. Default: log.broker of the configuration."),
]
At = Annotated[
    str | None,
    typer.Option("--broker", metavar="BROKER", help="HOST:PORT, local:///FOLDER, auto, embedded or local. Default: log.broker of the configuration."),
]
ReasonCode = Annotated[str | None, typer.Option("--reason", metavar="CODE", help="Only letters with this reason.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Goes into the history of the switches.")]
By = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who does it. Default: this user on this host.")]
Refreshed = Annotated[list[str] | None, typer.Argument(help="Such as transformer. Default: all that come in versions.")]
AsJson = Annotated[bool, typer.Option("--json", help="Nothing but JSON on the output.")]

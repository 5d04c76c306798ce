"""Print the JSON Schema of the wire format."""

from __future__ import annotations

import json
import sys

from streamrec.cli.options import Schema
from streamrec.errors import ConfigError
from streamrec.events.json_schema import KINDS, event_schema, schema_of


def run(options: Schema) -> int:
    """Print the schema of one kind, or of any event."""
    if options.kind is not None and options.kind not in KINDS:
        what = "Schema: no such kind"
        raise ConfigError(what, got=repr(options.kind), allowed=", ".join(KINDS), do="correct --kind")
    schema = event_schema() if options.kind is None else schema_of(options.kind)
    sys.stdout.write(json.dumps(schema, indent=2, ensure_ascii=False) + "\n")
    return 0

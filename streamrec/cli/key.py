"""Make a key of the HTTP interface."""

from __future__ import annotations

import sys
from typing import Any

import tomli_w

from streamrec.cli.options import NewKey
from streamrec.config.keys import SCOPES, ApiKey, digest_of, new_key
from streamrec.config.loading import parse_config
from streamrec.errors import ConfigError


def run(options: NewKey) -> int:
    """Print the key, which is shown this once, on the error output, and its table for ``serving.keys_file`` on the output."""
    if not options.scopes or not set(options.scopes) <= set(SCOPES):
        what = "Key: it has no scope" if not options.scopes else "Key: no such scope"
        raise ConfigError(what, got=", ".join(options.scopes) or "none", allowed=", ".join(SCOPES), do="give --scope, several times if you like")
    if not options.name.strip() or not options.name.isprintable():
        what = "Key: the name is empty or not printable"
        raise ConfigError(what, got=repr(options.name), allowed="words, for the registry's history and the log")
    for namespace in options.namespaces:
        parse_config({"events": {"namespace": namespace}})
    key = new_key()
    facts: dict[str, Any] = {"sha256": digest_of(key.encode()), "scopes": options.scopes, "namespaces": options.namespaces}
    made = ApiKey.model_validate({**facts, "rate": options.rate, "burst": options.burst})
    sys.stderr.write(f"the key, shown this once: {key}\n")
    sys.stderr.write("its table, for the file that serving.keys_file names; a running server takes it a second later:\n")
    sys.stdout.write(tomli_w.dumps({options.name: made.model_dump(mode="json", exclude_defaults=True)}))
    return 0

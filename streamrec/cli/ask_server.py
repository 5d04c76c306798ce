"""Ask a server that runs."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from streamrec.cli.answers import items_of, print_answer
from streamrec.cli.options import Ask
from streamrec.client import Client, Refused
from streamrec.errors import ClientError, ConfigError

_NO_KEY = 401


def run(options: Ask) -> int:
    """Print what the server answers."""
    for name, given, usual in (("--version", options.version, None), ("--student", options.student, "default")):
        if given != usual:
            what = f"Request: a server answers for what it serves, and takes no {name}"
            raise ConfigError(what, got=given, do=f"leave {name} out, or leave --url out to ask the storage")
    with Client(str(options.url)) as client:
        body: dict[str, Any] = options.body()
        try:
            reply = client.rank(**body) if options.candidates else client.recommend(**body)
        except Refused as error:
            if error.status != _NO_KEY:
                raise
            what = "Access: this server asks for a key"
            do = "set STREAMREC_API_KEY to one that may ask for answers (`streamrec key NAME --scope answers` makes one)"
            raise ConfigError(what, got=error.got, do=do) from error
        answer = reply.model_dump(mode="json", exclude_unset=True)
        print_answer(options, answer, _titles(client, items_of(answer), options.namespace))
    return 0


def _titles(client: Client, item_ids: Iterable[str], namespace: str | None) -> dict[str, str]:
    """Return the titles that the server knows; what is not known needs none."""
    titles, where = {}, {} if namespace is None else {"namespace": namespace}
    for item_id in item_ids:
        with suppress(ClientError):
            if title := client.get_item(item_id, **where).title:
                titles[item_id] = title
    return titles

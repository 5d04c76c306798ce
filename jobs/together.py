"""Share what runs everything in one process: serving beside a session's stream."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from serve.launch import launch, shutdown
from streamrec.config import Config
from streamrec.pipeline.layout import registry_url
from streamrec.pipeline.session import Session


@contextlib.contextmanager
def serving(session: Session, config: Config) -> Iterator[str]:
    """Serve a session's state and log inside the block, and give the server's address."""
    try:
        yield launch(config, session.address, session.state_url, registry_url(session.state_url))
    finally:
        shutdown()

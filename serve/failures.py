"""Tell a client that something broke here, and the log what it was."""

from __future__ import annotations

import logging
import traceback
from typing import Any

from streamrec.serving.replies import CODES

logger = logging.getLogger(__name__)


def failed(error: Exception, path: str, request_id: str) -> dict[str, Any]:
    """Write one line about an unexpected exception and return the body of the 500, which says nothing of the inside."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "nowhere"
    what, told = "Serving: request %r of %r failed at %s with %s: %r", (type(error).__name__, str(error)[:500])
    logger.error(what, request_id, path[:200], where, *told, extra={"request_id": request_id})
    what = "Serving: something broke here, it is in the server's log by the request's id"
    return {"error": {"code": CODES[500], "field": None, "got": None, "allowed": None, "message": what, "request_id": request_id}}

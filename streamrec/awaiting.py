"""Wait for what Ray's actors answer, and say who goes last where cores are short. Without torch: what only reads the log does not need it."""

from __future__ import annotations

import logging
from typing import TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayTaskError

from streamrec import local_node

T = TypeVar("T")

SLOW_S = 20.0
"""An answer that takes longer is told of: a cluster whose processes have died says nothing by itself."""

BEHIND = 5
"""By how much others go before an actor that a step waits for at its end only, where cores are short, as nice(2) counts."""

logger = logging.getLogger(__name__)


def awaited(ref: ray.ObjectRef[T], what: str) -> T:
    """Wait for a result for as long as it takes, and say what is waited for if it has not come within `SLOW_S`.

    Raises:
        OperatorError: This process has started Ray for itself, and it has ended.
    """
    is_said = False
    while True:
        try:
            return ray.get(ref, timeout=SLOW_S)
        except RayTaskError:  # Also where the actor itself has waited in vain: Ray's error is of both classes.
            raise
        except GetTimeoutError:
            local_node.check()
            if not is_said:
                logger.warning("Ray: still waiting for %s after %g s; if it never comes, look whether the cluster and its nodes live", what, SLOW_S)
            is_said = True

"""Be a Ray cluster of three nodes with a folder each, below the one that is given: a line names a node to kill, the end of the input ends it.

A program of its own, because a process asks for a token always or never, and the tests' own never does.
"""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from streamrec.testing.chaos.rig import CLUSTER_SETTINGS, end_node

STORE_BYTES = 100 * 2**20


def main(folder: Path) -> None:
    # No CPU: there the drivers run, as Ray puts them, and no actor.
    head = {"num_cpus": 0, "include_dashboard": True, "dashboard_agent_listen_port": 0, "object_store_memory": STORE_BYTES}
    cluster: Any = Cluster(initialize_head=True, head_node_args={**head, "_system_config": CLUSTER_SETTINGS})  # Its folder is below RAY_TMPDIR.
    nodes: dict[str, tuple[Any, Path]] = {}
    for name in ("n1", "n2"):
        node = cluster.add_node(num_cpus=2, object_store_memory=STORE_BYTES, temp_dir=str(folder / name))
        nodes[node.node_id] = (node, folder / name)
    say(f"http://{cluster.webui_url}")
    for line in sys.stdin:
        node, own = nodes.pop(line.strip())
        end_node(cluster, node)
        shutil.rmtree(own, ignore_errors=True)
        say("ended")
    with suppress(Exception):  # What was killed can't be stopped once more.
        cluster.shutdown()


def say(what: str) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

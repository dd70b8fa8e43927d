"""The pool of each simulated machine, as committed JSON. ``python -m tests.unit.gpu.golden.make`` writes it again.

The files are what a rack shows to the scheduler: a change in them is a change of the API, to be read and meant.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from nvdra_core.runtime.clock import SystemClock
from nvdra_node.gpu.inventory.discover import discover
from nvdra_node.host.host import open_host
from nvdra_node.host.ports import HostRoots
from tests.beds.memory.gpu_objects import a_pool
from tests.sim.api import SimRoot

PROFILES = ("a100x8", "gb200-nvl4", "h100x8", "l4x2")
HERE = Path(__file__).parent


def devices(path: Path, profile: str) -> list[Any]:
    """Device objects that a fresh node of this profile publishes, read from its simulated driver below ``path``."""
    root = SimRoot.create(path, profile)
    roots = HostRoots(driver=root.path, dev=root.path / "dev", proc=root.proc, sys=root.sys)
    host = open_host(roots)
    try:
        while not (result := discover(host, SystemClock())).is_complete:
            pass  # this machine does other things as well
        inventory = result.inventory
    finally:
        host.close()
    return list(a_pool(inventory).devices)


def golden(profile: str) -> Path:
    """Where the profile's devices are committed."""
    return HERE / f"{profile}.json"


def main() -> None:
    """Write all of them."""
    for profile in PROFILES:
        with tempfile.TemporaryDirectory() as directory:
            found = devices(Path(directory) / "host", profile)
        golden(profile).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()

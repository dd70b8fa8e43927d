"""The shipped unit broker where there is no systemd: ``python -m tests.sim.broker CONFIG``.

Every caller counts as the IMEX supervisor, as no cgroup names its unit; the rest is the service as it
ships, on the systemctl of the settings.
"""

from __future__ import annotations

import sys

from nvdra_node import config
from nvdra_node.app import broker
from nvdra_node.app.environment import SystemdEnvironment
from nvdra_node.broker.policy import SUPERVISOR


def main(path: str) -> int:
    """Serve until SIGTERM."""
    with open(path) as file:
        text = file.read()
    settings = config.load(
        file_text=text, file_name=path, environment={}, flags={}, host_name="node"
    )
    return broker.run(settings, SystemdEnvironment(), identify=lambda connection: SUPERVISOR)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""The config decoder is imported for the node's first domain, not at the start and not by the first claim."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).parents[3]
SCRIPT = """
import sys
from nvdra_core.runtime.clock import SystemClock
from nvdra_node.computedomain.driver import ComputeDomainDriver
from tests.fakes.supervisor import FakeSupervisor
from nvdra_node.computedomain.connection import SupervisorConnection
from nvdra_node.computedomain.model import DomainState, NodeView

supervisor, clock = FakeSupervisor(), SystemClock()
connection = SupervisorConnection(supervisor, clock)
ComputeDomainDriver(connection, supervisor, None, clock)
def loaded():
    return "nvdra_core.api" in sys.modules
found = [loaded()]
for view in (NodeView(fabric_state="Completed"), NodeView(domains={"A": DomainState(isolation="domain")})):
    connection._take(view)
    found.append(loaded())
print(found)
"""


def test_config_decoder_is_imported_for_the_first_domain():
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=TOP, check=False
    )
    assert found.stdout.strip() == "[False, False, True]", found.stderr

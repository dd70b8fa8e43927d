"""The unit broker under a real systemd: what the supervisor alone reaches through it."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.beds.host import unit_bed
from tests.beds.host.unit_bed import LIBRARY, UnitNode
from tests.beds.host.units import BROKER, IMEX_FILES, PROBE_UNIT, SOCKET, SUPERVISOR, UNIT
from tests.lib.waits import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

PATIENCE_S = 90.0
IMEX = "nvdra-imex.service"
BROKER_CLIENT = f"""\
import json, subprocess, sys, time
sys.path[:0] = ["{LIBRARY}", "{LIBRARY}/site-packages"]
from pathlib import Path
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_core.errors import HostError
from nvdra_node.host.units import BrokerUnits

units, said = BrokerUnits(Path("/run/nvdra/units.sock"), SystemClock()), {{}}

def ask(verb, name):
    began = time.monotonic()
    try:
        found = getattr(units, verb)([name] if verb == "show" else name, Deadline(30, SystemClock()))
    except HostError as error:
        found = str(error)
    key = f"{{verb}} {{name}}"
    said[f"seconds of {{key}}"] = time.monotonic() - began
    said[key] = found.get(name) if isinstance(found, dict) else found

for words in sys.argv[1:]:
    ask(*words.split())
said["systemctl"] = subprocess.run(["systemctl", "stop", "cron.service"], capture_output=True, text=True).stderr
print(json.dumps(said))
"""


def through_broker(node: UnitNode, unit: str | None, *calls: str) -> dict[str, Any]:
    """Call the broker from the sandbox of a unit, or as root outside of all units; (verb, unit) -> reply."""
    node.write("/usr/lib/nvdra-client.py", BROKER_CLIENT)
    argv = ["/usr/bin/python3", "-IB", "/usr/lib/nvdra-client.py", *calls]
    said: dict[str, Any] = json.loads(
        node.run_instead(unit, argv) if unit else node.node.run(argv).stdout
    )
    print(json.dumps(said, indent=1))
    return said


@pytest.fixture(scope="module")
def node(able: None) -> Iterator[UnitNode]:
    with unit_bed.up("e2e-broker") as (_, made):
        made.systemctl("start", UNIT)
        yield made


@pytest.fixture
def imex(node: UnitNode) -> Iterator[UnitNode]:
    """A host on which nvidia-imex may be started."""
    node.node.run(["sh", "-ec", IMEX_FILES])
    node.systemctl("start", SOCKET)
    yield node
    node.systemctl("stop", SUPERVISOR, IMEX)


def test_supervisor_starts_and_stops_imex_through_the_broker(imex: UnitNode) -> None:
    said = through_broker(imex, SUPERVISOR, f"start {IMEX}", f"show {IMEX}")
    assert said[f"show {IMEX}"]["ActiveState"] == "active"
    assert said[f"show {IMEX}"]["MainPID"] == imex.show("MainPID", IMEX) != "0"
    assert said[f"show {IMEX}"]["InvocationID"] == imex.show("InvocationID", IMEX)
    through_broker(imex, SUPERVISOR, f"stop {IMEX}")
    assert imex.show("ActiveState", IMEX) == "inactive"


def test_reload_through_the_broker_is_sigusr1(imex: UnitNode) -> None:
    through_broker(imex, SUPERVISOR, f"start {IMEX}", f"reload {IMEX}")
    # It ends the stand-in of nvidia-imex.
    wait_until("signalled", lambda: imex.show("ActiveState", IMEX) == "failed", PATIENCE_S)
    assert imex.show("ExecMainStatus", IMEX) == str(signal.SIGUSR1.value)
    through_broker(imex, SUPERVISOR, f"reset_failed {IMEX}")
    assert imex.show("ActiveState", IMEX) == "inactive"


def test_supervisor_reaches_no_other_unit(imex: UnitNode) -> None:
    said = through_broker(
        imex, SUPERVISOR, f"stop {UNIT}", f"start {PROBE_UNIT}", "show nvidia-imex.service"
    )
    assert "not permitted" in said[f"stop {UNIT}"]
    assert "not permitted" in said[f"start {PROBE_UNIT}"]
    assert said["show nvidia-imex.service"]["ActiveState"] == "inactive"
    assert "Failed to connect" in said["systemctl"]
    assert imex.show("ActiveState") == "active"


def test_broker_refuses_root_outside_of_our_units(imex: UnitNode) -> None:
    said = through_broker(imex, None, f"start {IMEX}", f"show {IMEX}")
    assert "it is no unit of nvdra" in said[f"start {IMEX}"]
    assert imex.show("ActiveState", IMEX) == "inactive"


@pytest.mark.parametrize("harm", ["restart", "kill", "freeze"])
def test_broker_end_disturbs_nothing(imex: UnitNode, harm: str) -> None:
    through_broker(imex, SUPERVISOR, f"start {IMEX}")
    before = imex.show("InvocationID", IMEX)
    pid = imex.show("MainPID", BROKER)
    words = {
        "restart": ("restart",),
        "kill": ("kill", "--signal=KILL"),
        "freeze": ("kill", "--signal=STOP"),
    }
    imex.systemctl(*words[harm], BROKER)
    if harm == "freeze":
        wait_until("ended by the watchdog", lambda: imex.show("MainPID", BROKER) != pid, PATIENCE_S)
    said = through_broker(imex, SUPERVISOR, f"show {IMEX}")
    assert said[f"show {IMEX}"]["InvocationID"] == before
    assert imex.show("MainPID", BROKER) not in ("0", pid)

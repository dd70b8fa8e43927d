"""The address for IMEX peers, chosen by the supervisor on this machine's network."""

from __future__ import annotations

import pytest

from nvdra_core.kube.resources import NODES
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_node.host import network
from nvdra_node.host.ports import HostRoots
from tests.beds.services.tray_rack import Rack, Tray
from tests.lib.waits import wait_until

pytestmark = [pytest.mark.sim, pytest.mark.timeout(300)]


@pytest.fixture
def own_address() -> str:
    found = (one.address for one in network.read(HostRoots()).addresses if ":" not in one.address)
    address = next((one for one in found if not one.startswith(("127.", "169.254."))), "")
    if not address:
        pytest.skip("NOT RUN: this machine has no address but loopback")
    return address


def set_internal_ip(rack: Rack, tray: Tray, address: str) -> None:
    body = {
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": tray.name},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }  # fmt: skip
    rack.client.merge_patch(NODES.sub("status"), body, deadline=Deadline(10, SystemClock()))


def test_loopback_api_server_leads_to_the_internal_ip(make_rack, own_address):
    rack = make_rack()
    [tray] = rack.trays
    tray.start(imexAddress="")
    tray.register()
    rack.claim("c1", tray, rack.domain("a"))
    message = tray.wait_for_error("c1", "NoAddress", "127.0.0.1 is loopback", "set imexAddress")
    assert "no InternalIP" in message
    assert tray.imex()["ActiveState"] == "inactive"
    set_internal_ip(rack, tray, own_address)
    wait_until("it is prepared", lambda: tray.prepare("c1").errors == {})
    assert f"BIND_INTERFACE_IP={own_address}\n" in (tray.imex_dir / "imexd.cfg").read_text()
    wait_until("it is reported", lambda: tray.status().get("addresses") == [own_address])
    assert "InternalIP" in tray.status()["addressMessage"]

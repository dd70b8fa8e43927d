"""Where the administrator says which nodes are a rack, a node gets nothing in the clique of another one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nvdra_cluster.settings import FabricSettings
from nvdra_core.kube.resources import NODES
from tests.beds.services.controller_rack import Rack, Tray
from tests.lib.waits import wait_until
from tests.unit.control.certificates.test_ca import a_request

LABEL = "node-restriction.kubernetes.io/nvlink-rack"


@pytest.fixture
def rack() -> Iterator[Rack]:
    with Rack(FabricSettings(rack_label=LABEL), issues_certificates=True) as made:
        made.start()
        yield made


def a_tray(rack: Rack, name: str, label: str | None) -> Tray:
    tray = rack.tray(name)
    set_label(rack, name, label)
    tray.request = a_request()
    tray.report()
    return tray


def set_label(rack: Rack, name: str, value: str | None) -> None:
    rack.client.merge_patch(NODES, {"metadata": {"name": name, "labels": {LABEL: value}}})


def is_in(rack: Rack, name: str) -> bool:
    spec = rack.spec(name)
    return spec.get("slot") is not None and bool(spec.get("certificate"))


def is_out(rack: Rack, name: str) -> bool:
    spec = rack.spec(name)
    return spec.get("slot") is None and not spec.get("certificate") and not spec.get("slots")


def peers(rack: Rack, name: str) -> list[str]:
    """Nodes in the slots of a node's spec."""
    return [slot["nodeName"] for slot in rack.spec(name)["slots"]]


@pytest.mark.parametrize("label", ["r2", None])
def test_node_of_another_rack_gets_no_slot_and_no_certificate(rack: Rack, label: str | None):
    for name in ("a", "bb"):
        a_tray(rack, name, "r1")
    stolen = a_tray(rack, "stolen", label)
    wait_until("the others are in", lambda: is_in(rack, "a") and is_in(rack, "bb"))
    rack.settle()
    assert is_out(rack, "stolen")
    wait_until("peers know each other alone", lambda: peers(rack, "a") == ["a", "bb"])

    rack.create_domain()
    rack.claim("stolen")
    stolen.report()
    wait_until("reported", lambda: rack.condition("Degraded").get("reason") == "RackMismatch")
    assert LABEL in rack.condition("Degraded")["message"]


def test_node_whose_label_is_corrected_gets_its_slot(rack: Rack):
    for name in ("a", "bb"):
        a_tray(rack, name, "r1")
    a_tray(rack, "ccc", "r1")
    wait_until("in", lambda: is_in(rack, "ccc"))
    slot = rack.spec("ccc")["slot"]
    set_label(rack, "ccc", "r2")
    wait_until("out", lambda: is_out(rack, "ccc"))
    set_label(rack, "ccc", "r1")
    wait_until("in again", lambda: is_in(rack, "ccc"))
    assert rack.spec("ccc")["slot"] == slot

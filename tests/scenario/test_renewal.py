"""CDI files of prepared claims follow the driver that is loaded, because containers of running pods start again."""

from __future__ import annotations

import pytest

from nvdra_core.errors import HostError
from nvdra_node.checkpoint.model import Record
from tests.scenario.gpu_node import GpuNode, a_claim, ctk_output

NEW_LIBRARY = "/usr/lib/x86_64-linux-gnu/libcuda.so.590.1"


@pytest.fixture
def node() -> GpuNode:
    node = GpuNode()
    node.prepare(a_claim())
    return node


def load_new_driver(node: GpuNode) -> None:
    node.machine.load_driver("590.1")
    node.files.replace(node.state / NEW_LIBRARY, b"")
    mount = {"hostPath": str(node.state / NEW_LIBRARY), "containerPath": NEW_LIBRARY}
    node.ctk_output = ctk_output(mounts=[mount])
    node.look()


def only_record(node: GpuNode) -> Record:
    (record,) = node.parts.records.all()
    return record


def renew(node: GpuNode, record: Record) -> bool:
    return node.transaction.renew_file(record, node.deadline())


def test_a_file_gets_the_libraries_of_the_new_driver_and_keeps_its_device(node: GpuNode) -> None:
    before = node.cdi_spec()
    load_new_driver(node)
    assert renew(node, only_record(node))
    after = node.cdi_spec()
    assert [m["containerPath"] for m in after["containerEdits"]["mounts"]] == [NEW_LIBRARY]
    assert after["devices"] == before["devices"]


def test_a_file_that_is_right_is_not_written(node: GpuNode) -> None:
    assert not renew(node, only_record(node))


def test_a_claim_that_was_unprepared_meanwhile_gets_no_file(node: GpuNode) -> None:
    record = only_record(node)
    node.unprepare(a_claim())
    load_new_driver(node)
    assert not renew(node, record)
    assert node.cdi_spec() is None


def test_a_claim_of_an_earlier_boot_waits_for_its_prepare(node: GpuNode) -> None:
    node.machine.boot_id = "another"
    node.restart()
    load_new_driver(node)
    assert not renew(node, only_record(node))


def test_a_device_that_is_gone_keeps_its_file_as_it_was(node: GpuNode) -> None:
    before = node.cdi_spec()
    load_new_driver(node)
    node.machine.remove(0)
    node.restart()
    with pytest.raises(HostError, match="not on this node"):
        renew(node, only_record(node))
    assert node.cdi_spec() == before

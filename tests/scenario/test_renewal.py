"""Renewal of CDI files after a driver reload, for restarted containers of running pods."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from nvdra_core.errors import DeviceMovedError, HostError, NotReadyError
from nvdra_node.checkpoint.model import Record
from nvdra_node.host.ports import NodeStat
from nvdra_node.kubeletplugin.claims import filecheck
from tests.beds.memory.gpu_node import GpuNode, a_claim, ctk_output
from tests.beds.memory.gpu_objects import interval
from tests.fakes.host.commands import hang

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
    node.rescan()


def only_record(node: GpuNode) -> Record:
    (record,) = node.deps.records.all()
    return record


def renew(node: GpuNode, record: Record) -> bool:
    return node.transaction.renew_file(record, node.deadline())


def test_renewed_file_has_new_libraries_and_same_device(node: GpuNode) -> None:
    before = node.cdi_spec()
    load_new_driver(node)
    assert renew(node, only_record(node))
    after = node.cdi_spec()
    assert [m["containerPath"] for m in after["containerEdits"]["mounts"]] == [NEW_LIBRARY]
    assert after["devices"] == before["devices"]


def test_current_file_is_not_written(node: GpuNode) -> None:
    assert not renew(node, only_record(node))


def test_unprepared_claim_gets_no_file(node: GpuNode) -> None:
    record = only_record(node)
    node.unprepare(a_claim())
    load_new_driver(node)
    assert not renew(node, record)
    assert node.cdi_spec() is None


def test_claim_of_earlier_boot_is_not_renewed(node: GpuNode) -> None:
    node.machine.boot_id = "another"
    node.restart()
    load_new_driver(node)
    assert not renew(node, only_record(node))


def test_missing_device_keeps_its_file(node: GpuNode) -> None:
    before = node.cdi_spec()
    load_new_driver(node)
    node.machine.remove(0)
    node.restart()
    with pytest.raises(HostError, match="not on this node"):
        renew(node, only_record(node))
    assert node.cdi_spec() == before


class TestNumbersAfterReload:
    """After a reload, a device node's name and number may belong to another tenant's GPU."""

    @pytest.fixture
    def two(self) -> GpuNode:
        node = GpuNode(gpus=2)
        for minor in range(4):
            node.machine.nodes[f"/dev/dri/card{minor}"] = NodeStat(
                major=226, minor=minor, mode=0o666, gid=0
            )
        node.machine.gpus[0].drm = ("card0",)
        node.machine.gpus[1].drm = ("card1",)
        node.prepare(a_claim())
        assert self.nodes(node) == ["/dev/nvidia0", "/dev/dri/card0"]
        return node

    def nodes(self, node: GpuNode) -> list[str]:
        (device,) = node.cdi_spec()["devices"]
        return [entry["path"] for entry in device["containerEdits"]["deviceNodes"]]

    def swap_cards(self, node: GpuNode) -> None:
        node.machine.reload_driver()
        node.machine.gpus[0].drm, node.machine.gpus[1].drm = ("card1",), ("card0",)

    def test_renewal_updates_drm_nodes(self, two: GpuNode) -> None:
        self.swap_cards(two)
        two.rescanner.rescan_if_due()
        assert renew(two, only_record(two))
        assert self.nodes(two) == ["/dev/nvidia0", "/dev/dri/card1"]
        (device,) = two.cdi_spec()["devices"]
        (hook,) = device["containerEdits"]["hooks"]
        address = two.machine.gpus[0].address
        assert hook["args"][-1] == f"../card1::/dev/dri/by-path/pci-{address}-card"

    def test_repeated_prepare_updates_drm_nodes(self, two: GpuNode) -> None:
        self.swap_cards(two)
        two.rescanner.rescan_if_due()
        two.prepare(a_claim())
        assert self.nodes(two) == ["/dev/nvidia0", "/dev/dri/card1"]

    def test_deleted_file_is_rewritten_with_current_drm_nodes(self, two: GpuNode) -> None:
        self.swap_cards(two)
        two.rescanner.rescan_if_due()
        two.files.remove(two.cdi_path())
        assert filecheck.write_missing(two.transaction, two.deps) == 1
        assert self.nodes(two) == ["/dev/nvidia0", "/dev/dri/card1"]

    def test_nothing_is_written_before_rescan(self, two: GpuNode) -> None:
        self.swap_cards(two)
        two.files.remove(two.cdi_path())
        with pytest.raises(NotReadyError, match="not read yet"):
            renew(two, only_record(two))
        assert two.cdi_spec() is None
        with pytest.raises(NotReadyError, match="not read yet"):
            two.transaction.prepare(two.claims.add(a_claim("c2", ("gpu-1",))), two.deadline(0.2))

    def swap_gpus(self, node: GpuNode) -> None:
        node.machine.reload_driver()
        first, second = node.machine.gpus
        first.minor, second.minor = 1, 0

    def test_file_that_names_another_gpu_is_removed(self, two: GpuNode) -> None:
        self.swap_gpus(two)
        two.rescanner.rescan_if_due()
        with pytest.raises(DeviceMovedError, match=r"is /dev/nvidia1 now .* delete the pod"):
            renew(two, only_record(two))
        assert two.cdi_spec() is None
        assert filecheck.write_missing(two.transaction, two.deps) == 0
        with pytest.raises(DeviceMovedError):
            two.prepare(a_claim())
        two.unprepare(a_claim())
        two.prepare(a_claim("next"))
        assert self.uuid_of(two, "next") == two.machine.gpus[1].uuid

    def uuid_of(self, node: GpuNode, uid: str) -> object:
        record = node.deps.records.get(uid)
        assert record is not None
        return record.devices[0].details["uuid"]

    def test_file_with_reused_minor_is_removed(self, two: GpuNode) -> None:
        two.machine.remove(0)
        two.machine.reload_driver()
        two.machine.gpus[0].minor = 0
        two.restart()
        with pytest.raises(DeviceMovedError, match="another GPU now"):
            renew(two, only_record(two))
        assert two.cdi_spec() is None

    def test_gpu_lost_before_the_start_keeps_its_file(self, two: GpuNode) -> None:
        two.machine.lose(0)
        two.restart()
        assert [gpu.name for gpu in two.rescanner.inventory.gpus] == ["gpu-1"]
        assert not renew(two, only_record(two))
        assert self.nodes(two) == ["/dev/nvidia0", "/dev/dri/card0"]

    def test_gpu_lost_under_earlier_driver_is_refused(self, two: GpuNode) -> None:
        """Its old minor is invalid, even while no other GPU has it."""
        two.machine.reload_driver()
        two.machine.lose(0)
        two.restart()
        with pytest.raises(HostError, match="not on this node any more"):
            renew(two, only_record(two))

    def test_record_of_earlier_driver_waits_for_scan(self, two: GpuNode) -> None:
        two.machine.reload_driver()
        two.restart(scan=False)
        with pytest.raises(NotReadyError, match="not read yet"):
            two.transaction.prepare(a_claim().ref, two.deadline(0.2))
        two.rescanner.rescan_if_due()
        two.prepare(a_claim())

    def test_time_sliced_claim_with_moved_gpu_is_refused(self, two: GpuNode) -> None:
        sliced = a_claim("sliced", ("gpu-1",), configs=[interval("Long")])
        two.prepare(sliced)
        self.swap_gpus(two)
        two.rescanner.rescan_if_due()
        with pytest.raises(DeviceMovedError, match="delete the pod"):
            two.prepare(sliced)
        assert two.time_slices == {}

    def test_file_is_renewed_despite_failing_time_slice(self, two: GpuNode) -> None:
        two.unprepare(a_claim())
        two.prepare(a_claim(configs=[interval("Long")]))
        self.swap_cards(two)
        two.machine.hang(0)
        two.rescanner.rescan_if_due()
        two.machine.heal(0)
        two.rescanner.reload()
        two.rescanner.rescan_if_due()
        two.commands.programs["nvidia-smi"] = hang
        with pytest.raises(HostError, match="did not end in time"):
            renew(two, only_record(two))
        assert self.nodes(two) == ["/dev/nvidia0", "/dev/dri/card1"]

    def test_record_of_earlier_release_waits_for_scan(self, two: GpuNode) -> None:
        """It has no PCI address, so DRM nodes cannot be found before the scan."""
        record = only_record(two)
        (device,) = record.devices
        details = {"uuid": device.details["uuid"], "minor": 0}
        two.deps.records.put(replace(record, devices=(replace(device, details=details),)))
        two.restart(scan=False)
        two.prepare(a_claim())
        assert self.nodes(two) == ["/dev/nvidia0"]
        two.rescanner.rescan_if_due()
        two.prepare(a_claim())
        assert self.nodes(two) == ["/dev/nvidia0", "/dev/dri/card0"]

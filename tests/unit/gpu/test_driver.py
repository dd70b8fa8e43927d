"""The GPU driver on a fake host: device nodes, verification, time slices and restored settings."""

import pytest

from nvdra_core.errors import CommandError, HostError, NotReadyError
from nvdra_node.checkpoint.model import Record, RecordState
from nvdra_node.gpu.effects.base import decode, encode
from nvdra_node.gpu.effects.timeslice import Original, SetTimeSlice
from nvdra_node.host.ports import NodeStat
from tests.beds.memory.gpu_node import GpuNode, a_claim
from tests.beds.memory.gpu_objects import interval

LONG = [interval("Long")]


@pytest.fixture
def node():
    return GpuNode()


def record_of(node, uid="c1"):
    return node.deps.records.get(uid)


def verify(node, uid="c1"):
    node.driver.verify(record_of(node, uid), node.deadline())


class TestFullGpuEdits:
    def test_edits_contain_gpu_node_with_numbers(self, node):
        node.prepare(a_claim(devices=("gpu-3",)))
        (device,) = node.cdi_spec()["devices"]
        assert device["name"] == "c1-gpu-3"
        assert device["containerEdits"]["deviceNodes"] == [
            {
                "path": "/dev/nvidia3",
                "type": "c",
                "major": 195,
                "minor": 3,
                "fileMode": 0o666,
                "permissions": "rwm",
            }
        ]

    def test_edits_contain_drm_nodes_groups_and_links(self, node):
        node.machine.nodes["/dev/dri/card1"] = NodeStat(major=226, minor=1, mode=0o660, gid=44)
        node.machine.nodes["/dev/dri/renderD128"] = NodeStat(
            major=226, minor=128, mode=0o666, gid=105
        )
        node.prepare(a_claim())
        spec = node.cdi_spec()
        edits = spec["devices"][0]["containerEdits"]
        assert [n["path"] for n in edits["deviceNodes"]] == [
            "/dev/nvidia0",
            "/dev/dri/card1",
            "/dev/dri/renderD128",
        ]
        assert edits["deviceNodes"][1]["gid"] == 44
        assert edits["additionalGids"] == [44], "the group is needed where others may not read"
        assert spec["cdiVersion"] == "0.7.0"
        (hook,) = edits["hooks"]
        address = node.machine.gpus[0].address
        assert hook["args"] == [
            "nvidia-cdi-hook",
            "create-symlinks",
            "--link",
            f"../card1::/dev/dri/by-path/pci-{address}-card",
            "--link",
            f"../renderD128::/dev/dri/by-path/pci-{address}-render",
        ]

    def test_drm_nodes_missing_in_dev_are_omitted(self, node):
        node.prepare(a_claim())
        assert len(node.cdi_spec()["devices"][0]["containerEdits"]["deviceNodes"]) == 1
        assert node.cdi_spec()["cdiVersion"] == "0.5.0"


class TestVerify:
    def test_missing_device_node_is_retried_and_named(self, node):
        node.machine.gpus[0].pci_driver = "vfio-pci"
        with pytest.raises(NotReadyError, match="/dev/nvidia0 does not exist: run nvidia-modprobe"):
            node.prepare(a_claim())
        assert node.cdi_spec() is None
        assert record_of(node) is None

    def test_device_node_with_wrong_numbers_is_refused(self, node):
        node.prepare(a_claim())
        node.machine.nodes["/dev/nvidia0"] = NodeStat(major=195, minor=5, mode=0o666, gid=0)
        with pytest.raises(HostError, match="195:5, expected 195:0"):
            node.prepare(a_claim())
        with pytest.raises(HostError, match="195:5, expected 195:0"):
            verify(node)

    @pytest.mark.parametrize("fall", ["lose", "hang", "fail"])
    def test_unhealthy_gpu_is_prepared_while_its_node_exists(self, node, fall):
        """Pods that tolerate its taint, and monitoring pods that have admin access to all GPUs."""
        getattr(node.machine, fall)(0, *((999,) if fall == "fail" else ()))
        node.rescan()
        both = ("gpu-0", "gpu-1")
        node.prepare(a_claim("brave", devices=both))
        node.prepare(a_claim("monitor", devices=both, admin=True))
        for uid in ("brave", "monitor"):
            edits = [device["containerEdits"] for device in node.cdi_spec(uid)["devices"]]
            assert [e["deviceNodes"][0]["path"] for e in edits] == ["/dev/nvidia0", "/dev/nvidia1"]

    def test_lost_gpu_is_answered_from_record(self, node):
        before = node.prepare(a_claim())
        node.machine.lose(0)
        node.rescan()
        assert node.prepare(a_claim()) == before
        node.machine.gpus[0].pci_driver = None
        with pytest.raises(NotReadyError, match="/dev/nvidia0 does not exist"):
            node.prepare(a_claim())
        node.unprepare(a_claim())

    def test_gpu_with_new_minor_is_refused(self, node):
        node.prepare(a_claim())
        node.machine.gpus[0].minor = 9
        node.rescan()
        with pytest.raises(HostError, match="is /dev/nvidia9 now"):
            verify(node)

    def test_removed_gpu_is_refused(self, node):
        node.prepare(a_claim())
        node.machine.remove(0)
        node.restart()
        with pytest.raises(HostError, match="not on this node any more"):
            verify(node)

    def test_record_is_served_before_first_scan(self, node):
        """A plugin restart with a hanging NVML must not stop pods that have their GPUs."""
        devices = node.prepare(a_claim())
        node.restart(scan=False)
        assert node.rescanner.inventory.gpus == ()
        assert node.prepare(a_claim()) == devices


class TestTimeSlices:
    def test_time_slice_is_set_and_reset(self, node):
        node.prepare(a_claim(configs=LONG))
        assert node.time_slices == {node.uuid(0): 3}
        node.unprepare(a_claim())
        assert node.time_slices == {}

    def test_plain_claim_changes_no_setting(self, node):
        node.prepare(a_claim())
        node.unprepare(a_claim())
        assert [argv for argv in node.commands.history if "smi" in argv[0]] == []
        assert not [call for call in node.machine.calls if call[0] == "set_compute_mode"]

    def test_compute_mode_is_restored(self, node):
        node.machine.gpus[0].compute_mode = 3
        node.prepare(a_claim(configs=LONG))
        assert node.machine.gpus[0].compute_mode == 0
        node.unprepare(a_claim())
        assert node.machine.gpus[0].compute_mode == 3

    def test_last_sharing_claim_restores_original_state(self, node):
        node.machine.gpus[0].compute_mode = 3
        one = a_claim("one", shares=("s1",), configs=LONG)
        two = a_claim("two", shares=("s2",), configs=LONG)
        node.prepare(one)
        node.prepare(two)
        node.unprepare(one)
        assert node.time_slices == {node.uuid(0): 3}
        assert node.machine.gpus[0].compute_mode == 0
        node.unprepare(two)
        assert node.time_slices == {}
        assert node.machine.gpus[0].compute_mode == 3

    def test_admin_claim_keeps_owners_time_slice(self, node):
        node.prepare(a_claim("owner", configs=LONG))
        admin = a_claim("admin", admin=True, configs=[interval("Short")])
        node.prepare(admin)
        node.unprepare(admin)
        assert node.time_slices == {node.uuid(0): 3}

    def test_unprepare_after_reboot_restores_nothing(self, node):
        """By then the GPU may belong to another claim."""
        node.machine.gpus[0].compute_mode = 3
        node.prepare(a_claim(configs=LONG))
        node.machine.reboot()
        node.restart()
        node.unprepare(a_claim())
        assert node.time_slices == {}
        assert node.machine.gpus[0].compute_mode == 0

    def test_prepare_after_reboot_sets_time_slice_again(self, node):
        node.prepare(a_claim(configs=LONG))
        node.machine.reboot()
        node.restart()
        node.prepare(a_claim(configs=LONG))
        assert node.time_slices == {node.uuid(0): 3}
        assert record_of(node).boot_id == node.machine.boot_id


class TestGpusWithoutTimeSlices:
    @pytest.fixture
    def old(self, node):
        node.machine.gpus[0].has_time_slices = False
        return node

    def test_default_interval_is_prepared(self, old):
        old.prepare(a_claim(configs=[interval("Default")]))
        old.unprepare(a_claim())

    def test_other_interval_fails_and_unprepare_succeeds(self, old):
        with pytest.raises(CommandError):
            old.prepare(a_claim(configs=LONG))
        old.unprepare(a_claim())
        assert record_of(old) is None


def test_effect_survives_json_round_trip():
    effect = SetTimeSlice(uuid="GPU-1", time_slice=2, original=Original(compute_mode=3))
    assert encode(effect) == {
        "kind": "setTimeSlice",
        "uuid": "GPU-1",
        "timeSlice": 2,
        "original": {"computeMode": 3},
    }
    assert decode(encode(effect), SetTimeSlice) == effect


@pytest.mark.parametrize(
    "body", [{}, {"kind": "createMig"}, {"kind": "setTimeSlice"}, {"kind": ["x"]}]
)
def test_unknown_effect_is_refused_by_name(node, body):
    with pytest.raises(HostError, match="record"):
        node.driver.undo(body, node.deadline())


def test_record_with_unknown_effect_is_kept(node):
    record = Record(
        uid="c1",
        namespace="ns",
        name="claim-c1",
        state=RecordState.STARTED,
        boot_id=node.deps.boot_id,
        effects=({"kind": "createMig"},),
    )
    node.deps.records.put(record)
    with pytest.raises(HostError, match="createMig"):
        node.unprepare(a_claim())
    assert record_of(node) == record

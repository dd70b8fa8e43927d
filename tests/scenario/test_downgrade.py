"""Records of a newer release after a downgrade: they protect their devices until that release is back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nvdra_core.errors import DeviceConflictError, HostError, RecordError
from nvdra_node.kubeletplugin.claims.sweep import Sweeper, SweepTimes
from tests.beds.memory.gpu_node import GpuNode, a_claim
from tests.lib.records import TIME_SLICED, record_file

CLAIM = a_claim(configs=[TIME_SLICED])
OTHER = a_claim("c2")
LONG = 3


def prepared() -> tuple[GpuNode, Any]:
    """A node with the claim prepared, and its record."""
    node = GpuNode()
    node.prepare(CLAIM)
    assert node.time_slices == {node.uuid(0): LONG}
    return node, json.loads(node.files.read(node.state / "claims/c1.json") or b"")["record"]


def downgraded(**change: Any) -> GpuNode:
    """The claim was prepared by a release of schema 9, whose record differs by ``change`` (None: missing)."""
    node, body = prepared()
    body = {key: value for key, value in {**body, **change}.items() if value is not None}
    node.files.replace(node.state / "claims/c1.json", record_file(body, schema=9))
    node.restart()
    assert node.deps.records.all() == ()
    return node


def quarantine(node: GpuNode) -> list[str]:
    return list(node.files.names(node.state / "quarantine"))


RENAMED: dict[str, Any] = {"effects": None, "steps": [{"setTimeSlice": LONG}]}
ONLY_DEVICES: dict[str, Any] = {"claim": None, "holds": 7, "bootId": None, **RENAMED}
ONLY_CLAIM: dict[str, Any] = {"devices": None, "holds": None, "grants": ["gpu-0"]}


@pytest.mark.parametrize("change", [{}, RENAMED, ONLY_DEVICES, ONLY_CLAIM], ids=str)
def test_device_of_a_newer_record_goes_to_no_other_claim(change):
    node = downgraded(**change)
    with pytest.raises(DeviceConflictError, match="uid c1"):
        node.prepare(OTHER)
    node.prepare(a_claim("c3", devices=("gpu-1",)))
    node.prepare(a_claim("monitor", admin=True))


def test_unprepare_undoes_completely_known_newer_record():
    node = downgraded()
    node.unprepare(CLAIM)
    assert node.time_slices == {}
    assert quarantine(node) == [] and node.deps.records.quarantined == ()
    assert node.cdi_spec("c1") is None
    node.prepare(OTHER)
    node.unprepare(CLAIM)


@pytest.mark.parametrize("change", [RENAMED, ONLY_DEVICES, ONLY_CLAIM], ids=str)
def test_unprepare_of_a_newer_record_is_refused_if_not_known(change):
    node = downgraded(**change)
    for _ in range(2):
        with pytest.raises(RecordError, match=r"schema 9, .* install that release again"):
            node.unprepare(CLAIM)
    assert node.time_slices == {node.uuid(0): LONG}
    assert quarantine(node) == ["c1.json", "c1.json.reason"]
    with pytest.raises(DeviceConflictError):
        node.prepare(OTHER)


def test_unprepare_with_an_effect_of_a_newer_release_is_refused():
    node = downgraded(effects=[{"kind": "startMps", "uuid": "GPU-0"}])
    with pytest.raises(HostError, match="effect of kind 'startMps'"):
        node.unprepare(CLAIM)
    with pytest.raises(DeviceConflictError):
        node.prepare(OTHER)


@pytest.mark.parametrize("change", [{}, RENAMED], ids=str)
def test_repeated_prepare_repeats_the_newer_releases_reply(change):
    node, body = prepared()
    ids = body["devices"][0]["cdiIds"]
    node = downgraded(**change)
    (device,) = node.prepare(CLAIM)
    assert (device.device, list(device.cdi_ids)) == ("gpu-0", ids)
    assert quarantine(node) == ["c1.json", "c1.json.reason"]


@pytest.mark.parametrize("missing", ["request", "pool", "device", "cdiIds"])
def test_repeated_prepare_with_unknown_device_is_refused(missing):
    _, body = prepared()
    whole = body["devices"][0]
    device = {key: value for key, value in whole.items() if key != missing}
    for devices in ([device], [whole, device]):
        node = downgraded(devices=devices, later=1)
        if missing == "device" and len(devices) == 2:
            continue  # an entry without a name is no device
        with pytest.raises(RecordError, match="cannot be prepared again"):
            node.prepare(CLAIM)


def test_repeated_prepare_without_cdi_file_is_refused():
    node = downgraded()
    node.files.remove(node.cdi_path("c1"))
    with pytest.raises(RecordError, match="cannot be prepared again; install that release again"):
        node.prepare(CLAIM)
    assert quarantine(node) == ["c1.json", "c1.json.reason"]


@pytest.mark.parametrize("change", [{}, RENAMED], ids=str)
def test_newer_record_of_an_earlier_boot_holds_nothing(change):
    node = downgraded(bootId="an-earlier-one", **change)
    node.time_slices.clear()
    node.prepare(a_claim("c2"))
    node.unprepare(a_claim("c2"))
    node.prepare(CLAIM)
    assert quarantine(node) == []
    assert node.time_slices == {node.uuid(0): LONG}
    node.unprepare(CLAIM)
    assert node.deps.records.all() == ()


def test_newer_record_of_an_earlier_boot_can_be_unprepared():
    node = downgraded(bootId="an-earlier-one", **RENAMED)
    node.unprepare(CLAIM)
    assert quarantine(node) == [] and node.cdi_spec("c1") is None


def test_persistent_newer_effect_keeps_its_record():
    effect = {"kind": "createMig", "persistent": True}
    node = downgraded(bootId="an-earlier-one", effects=[effect], later=1)
    for work in (node.unprepare, node.prepare):
        with pytest.raises(RecordError, match="outlive a reboot"):
            work(CLAIM)
    assert quarantine(node) == ["c1.json", "c1.json.reason"]


def test_record_is_restored_by_a_release_that_can_read_it():
    """Quarantined by an older release: this release is the newer one."""
    node, body = prepared()
    node.files.remove(node.state / "claims/c1.json")
    node.files.make_directory(node.state / "quarantine")
    node.files.replace(node.state / "quarantine/c1.json", record_file(body, schema=1))
    node.files.replace(node.state / "quarantine/c1.json.reason", b"too new\n")
    node.restart()
    assert quarantine(node) == [] and node.deps.records.quarantined == ()
    with pytest.raises(DeviceConflictError):
        node.prepare(OTHER)
    node.unprepare(CLAIM)
    assert node.time_slices == {}


@pytest.mark.parametrize("schema", [1, 9])
def test_quarantined_record_yields_to_one_written_since(schema):
    """Also if the process died between both writes: a later start must not restore an ended claim."""
    node, body = prepared()
    node.files.make_directory(node.state / "quarantine")
    node.files.replace(
        node.state / "quarantine/c1.json", record_file({**body, "name": "old"}, schema)
    )
    node.restart()
    record = node.deps.records.get("c1")
    assert record is not None and record.name == CLAIM.ref.name
    assert quarantine(node) == []


def test_newer_record_stays_if_one_written_since_is_damaged():
    node = downgraded()
    node.files.replace(node.state / "claims/c1.json", b"garbage")
    node.restart()
    assert quarantine(node) == ["c1.json", "c1.json.2", "c1.json.2.reason", "c1.json.reason"]
    node.unprepare(CLAIM)
    assert node.time_slices == {}


def test_deleted_claim_of_a_newer_record_is_swept():
    node = downgraded()
    sweep = Sweeper(node.transaction, node.deps, SweepTimes(period_s=1, grace_s=0))
    node.claims.add(CLAIM)
    sweep.run_once()
    assert quarantine(node) != []
    node.claims.delete(CLAIM.ref)
    sweep.run_once()
    assert quarantine(node) == [] and node.time_slices == {}

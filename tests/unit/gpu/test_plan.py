"""Plans of full GPUs: what is decided, and what is refused with which words."""

import json

import pytest

from nvdra_core.errors import (
    HostError,
    InvalidConfigError,
    NotReadyError,
    UnknownDeviceError,
)
from nvdra_core.gates import FeatureGates
from nvdra_node.checkpoint.claim import ConfigSource
from nvdra_node.checkpoint.model import Record, RecordState
from nvdra_node.gpu import catalog
from nvdra_node.gpu import plan as planning
from nvdra_node.gpu.model import GpuState, Inventory
from tests.beds.memory.gpu_node import a_claim
from tests.beds.memory.gpu_objects import (
    API,
    a_gpu,
    an_inventory,
    gpu_config,
    interval,
    shipped_kinds,
)

OFF = FeatureGates.parse("")
ON = FeatureGates.parse("TimeSlicingSettings=true,MPSSupport=true")
TWO = an_inventory(a_gpu(0), a_gpu(1))


def plan(claim, inventory=TWO, others=(), gates=ON):
    known = shipped_kinds()
    found = catalog.build(inventory, known.values())
    return planning.plan(claim, planning.allot(claim, found, known, gates), known, others)


def test_plain_gpu_is_held_without_effects():
    result = plan(a_claim(devices=("gpu-1", "gpu-0")))
    assert result.holds == (a_gpu(0).hold, a_gpu(1).hold)
    assert result.effects == ()
    assert result.config_key == ""


def test_unknown_device_error_lists_known_ones():
    with pytest.raises(UnknownDeviceError, match="gpu-7 is not on this node; it has gpu-0, gpu-1"):
        plan(a_claim(devices=("gpu-7",)))


def test_node_without_gpus_is_not_ready():
    with pytest.raises(NotReadyError, match="driver loaded") as error:
        plan(a_claim(), Inventory(gpus=(), driver_version=None))
    assert error.value.retry_after_s


SICK = [GpuState.LOST, GpuState.HUNG, GpuState.FAILED]


@pytest.mark.parametrize("admin", [False, True])
@pytest.mark.parametrize("state", SICK)
def test_unhealthy_gpu_is_planned(state, admin):
    inventory = an_inventory(a_gpu(0, state=state, message="XID 79"), a_gpu(1))
    result = plan(a_claim(devices=("gpu-0", "gpu-1"), admin=admin), inventory)
    assert result.holds == (() if admin else (a_gpu(0).hold, a_gpu(1).hold))


@pytest.mark.parametrize("state", SICK)
def test_time_slice_of_unhealthy_gpu_is_refused(state):
    inventory = an_inventory(a_gpu(0, state=state, message="XID 79"), a_gpu(1))
    with pytest.raises(NotReadyError, match=f"gpu-0 .* is {state.value}, .* XID 79; reset it"):
        plan(a_claim(configs=[interval("Long")]), inventory)
    assert plan(a_claim(configs=[interval("Default")]), inventory).effects == ()
    assert plan(a_claim(devices=("gpu-1",), configs=[interval("Long")]), inventory).effects


def test_gpu_in_mig_mode_is_refused_whole():
    with pytest.raises(HostError, match="MIG mode"):
        plan(a_claim(), an_inventory(a_gpu(0, mig_enabled=True)))


@pytest.mark.parametrize(
    ("text", "number"), [("Default", 0), ("Short", 1), ("Medium", 2), ("Long", 3)]
)
def test_interval_gives_one_effect_per_gpu(text, number):
    result = plan(a_claim(devices=("gpu-0", "gpu-1"), configs=[interval(text)]))
    assert [(e["uuid"], e["timeSlice"]) for e in result.effects] == [
        (a_gpu(0).uuid, number),
        (a_gpu(1).uuid, number),
    ]
    if number:
        sharing = json.loads(result.config_key)["sharing"]
        assert sharing["timeSlicingConfig"]["interval"] == text


@pytest.mark.parametrize(
    "configs",
    [[], [{"apiVersion": API, "kind": "GpuConfig"}], [gpu_config()], [interval("Default")]],
)
def test_default_configs_have_empty_key(configs):
    assert plan(a_claim(configs=configs)).config_key == ""


@pytest.mark.parametrize("config", [gpu_config(), gpu_config(timeSlicingConfig={})])
def test_missing_interval_means_default(config):
    """Upstream crashes on the empty block, at every claim author's will."""
    (effect,) = plan(a_claim(configs=[config])).effects
    assert effect["timeSlice"] == 0


def test_strategy_with_gate_off_is_refused_by_name():
    with pytest.raises(InvalidConfigError, match="TimeSlicingSettings"):
        plan(a_claim(configs=[interval("Long")]), gates=OFF)
    with pytest.raises(InvalidConfigError, match="MPSSupport"):
        plan(a_claim(configs=[gpu_config("MPS")]), gates=OFF)


def test_mps_is_refused_by_gate_name():
    with pytest.raises(InvalidConfigError, match="MPSSupport"):
        plan(a_claim(configs=[gpu_config("MPS")]))


def test_last_config_entry_wins():
    claim = a_claim(configs=[(["r0"], interval("Short")), ([], interval("Long"))])
    assert plan(claim).effects[0]["timeSlice"] == 3
    claim = a_claim(configs=[([], interval("Short")), (["r0"], interval("Long"))])
    assert plan(claim).effects[0]["timeSlice"] == 3


def test_different_configs_have_key_per_device():
    claim = a_claim(devices=("gpu-0", "gpu-1"), configs=[(["r1"], interval("Long"))])
    result = plan(claim)
    assert [effect["uuid"] for effect in result.effects] == [a_gpu(1).uuid]
    assert set(json.loads(result.config_key)) == {"gpu-0", "gpu-1"}


def test_shares_with_different_configs_are_refused():
    configs = [(["r0"], interval("Short")), (["r1"], interval("Long"))]
    claim = a_claim(devices=("gpu-0", "gpu-0"), shares=("s1", "s2"), configs=configs)
    with pytest.raises(InvalidConfigError, match=r"gpu-0 .*Short.*Long.*; use one config"):
        plan(claim)
    claim = a_claim(devices=("gpu-0", "gpu-0"), shares=("s1", "s2"), configs=configs[:1])
    with pytest.raises(InvalidConfigError, match=r"Short.* and as default"):
        plan(claim)
    claim = a_claim(devices=("gpu-0", "gpu-0"), shares=("s1", "s2"), configs=[interval("Long")])
    assert len(plan(claim).effects) == 1


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"apiVersion": API, "kind": "GpuConfig", "extra": 1},
            "config 0 .FromClaim.*unknown field",
        ),
        ({"apiVersion": API, "kind": "Pizza"}, "kind"),
        ({"kind": "GpuConfig"}, "apiVersion"),
        (interval("Forever"), "Forever"),
        (
            {
                "apiVersion": API,
                "kind": "ComputeDomainChannelConfig",
                "domainID": "6a3d8cf5-76f2-4f2b-8f5e-07b5e5b0d8a1",
            },
            "is not for driver gpu.nvidia.com",
        ),
    ],
)
def test_invalid_config_error_names_entry_and_value(config, words):
    with pytest.raises(InvalidConfigError, match=words):
        plan(a_claim(configs=[config]))


def test_config_of_other_kind_fails_only_if_request_named():
    mig = {"apiVersion": API, "kind": "MigDeviceConfig"}
    assert plan(a_claim(configs=[mig])).effects == ()
    with pytest.raises(InvalidConfigError, match="r0"):
        plan(a_claim(configs=[(["r0"], mig)]))


def test_admin_access_has_no_effects_and_holds():
    result = plan(a_claim(admin=True, configs=[interval("Long")], source=ConfigSource.CLASS))
    assert result.effects == ()
    assert result.holds == ()


def test_original_state_is_adopted_from_sharing_claim():
    (effect,) = plan(a_claim(configs=[interval("Long")])).effects
    other = Record(
        uid="other",
        namespace="ns",
        name="o",
        state=RecordState.COMPLETED,
        boot_id="b",
        effects=({**effect, "original": {"computeMode": 3}},),
    )
    assert plan(a_claim(configs=[interval("Long")]), others=[other]).effects == other.effects


def test_shares_of_one_gpu_have_distinct_cdi_names():
    claim = a_claim(devices=("gpu-0", "gpu-0"), shares=("s1", "s2"))
    assert planning._cdi_names(claim) == ["c1-gpu-0-s1", "c1-gpu-0-s2"]
    assert planning._cdi_names(a_claim(shares=("s1",))) == ["c1-gpu-0"]
    assert len(plan(claim).holds) == 1

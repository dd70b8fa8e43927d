"""Plans and outcomes of claims."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from nvdra_core.errors import HostError, InvalidConfigError, UnknownDeviceError
from nvdra_node.computedomain import plan as planning
from nvdra_node.kubeletplugin.claims.overlap import clashing
from tests.unit.computedomain.examples import a_claim, joined, parameters

MAJOR = 237


def test_claim_holds_its_domain():
    found = planning.plan(a_claim())
    assert found.effects == (
        {
            "kind": "joinDomain",
            "domain": "A",
            "claim": {"namespace": "ns", "name": "claim-c1", "uid": "c1"},
        },
    )
    assert found.holds == ("imex", "imex/A")


def test_claims_with_shares_overlap_only_in_one_domain():
    """A domain's isolation is unknown at its first claim: a guess in the record would refuse the next domain."""
    [first, second] = (planning.plan(a_claim(f"c{d}", parameters(d))) for d in ("A", "S"))
    assert first.config_key == second.config_key
    assert clashing(first.holds, second.holds) == []
    same = planning.plan(a_claim("c3", parameters("A")))
    assert clashing(first.holds, same.holds) == ["imex/A"], (
        "which the one device in common accounts for"
    )


@pytest.mark.parametrize(
    ("configs", "says"),
    [
        ([parameters("")], "domainID"),
        ([parameters("../../x")], "no UID"),
        ([parameters(unexpectedField=1)], "unexpectedField"),
        ([parameters(allocationMode="Some")], "Some"),
        ([parameters(kind="ComputeDomainDaemonConfig")], "systemd runs it"),
        ([{"apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig"}], "gpu.nvidia.com"),
    ],
)
def test_invalid_config_is_refused_with_its_value(configs, says):
    with pytest.raises(InvalidConfigError, match=says):
        planning.plan(a_claim("c1", *configs))


def test_claim_without_config_is_refused_with_a_remedy():
    claim = replace(a_claim(), configs=())
    with pytest.raises(InvalidConfigError, match="ResourceClaimTemplate"):
        planning.plan(claim)


def test_later_config_wins():
    assert planning.plan(a_claim("c1", parameters("A"), parameters("B"))).holds[1] == "imex/B"


def test_claim_for_two_domains_is_refused():
    claim = a_claim("c1", parameters("A"), parameters("B"), devices=("channel-0", "channel-0"))
    first, second = claim.configs
    both = (
        replace(first, requests=("r0",)),
        replace(second, requests=("r1",)),
    )
    with pytest.raises(InvalidConfigError, match="several ComputeDomains"):
        planning.plan(replace(claim, configs=both))


@pytest.mark.parametrize(
    ("device", "says"), [("daemon-0", "systemd"), ("gpu-0", "no device gpu-0")]
)
def test_other_devices_are_refused(device, says):
    with pytest.raises(UnknownDeviceError, match=says):
        planning.plan(a_claim(devices=(device,)))


def nodes(prepared):
    return [n for d in prepared.spec.devices for n in d.edits.device_nodes]


def test_channel_is_given_by_major_and_minor():
    prepared = planning.finish(a_claim(), joined(), MAJOR)
    [node] = nodes(prepared)
    assert (node.path, node.major, node.minor) == (
        "/dev/nvidia-caps-imex-channels/channel3",
        MAJOR,
        3,
    )
    assert node.file_mode == 0o666 and node.host_path is None
    [device] = prepared.devices
    assert device.cdi_ids == ("k8s.compute-domain.nvidia.com/claim=c1-channel-0",)
    assert (device.kind, device.request) == ("channel", "r0")


def test_mode_all_gives_every_channel_of_the_driver():
    claim = a_claim("c1", parameters(allocationMode="All"))
    found = nodes(planning.finish(claim, joined(channel_count=16), MAJOR))
    assert [node.minor for node in found] == list(range(16))


def test_mode_all_is_refused_with_channel_isolation():
    claim = a_claim("c1", parameters(allocationMode="All"))
    with pytest.raises(InvalidConfigError, match="use Single"):
        planning.finish(claim, joined(isolation="channel"), MAJOR)


def test_node_without_fabric_adds_nothing_to_containers():
    prepared = planning.finish(a_claim(), joined(has_fabric=False), None)
    assert prepared.devices[0].cdi_ids == ()
    assert nodes(prepared) == []


def test_channel_beyond_the_drivers_count_is_refused():
    with pytest.raises(HostError, match="NVreg_ImexChannelCount"):
        planning.finish(a_claim(), joined(channel=5, channel_count=4), MAJOR)


def test_driver_without_channels_is_an_error():
    with pytest.raises(HostError, match="no IMEX channels"):
        planning.finish(a_claim(), joined(), None)


def test_two_requests_get_one_channel_under_two_names():
    claim = a_claim(devices=("channel-0", "channel-0"), shares=("s1", "s2"))
    prepared = planning.finish(claim, joined(), MAJOR)
    assert len({d.name for d in prepared.spec.devices}) == 2
    assert [device.share_id for device in prepared.devices] == ["s1", "s2"]

"""Rules: defaults, gates, and everything that the text of a config alone decides."""

from typing import Any

import pytest

from nvdra_core import api
from nvdra_core.errors import InvalidConfigError
from nvdra_core.gates import FeatureGates
from tests.unit.api.examples import ALL_STRATEGIES, DOMAIN_UID, FULL, a_config, a_gpu_config

GB200 = ("GPU-c", "GPU-a", "GPU-b")


def resolve(parameters: dict[str, Any], gates: FeatureGates = ALL_STRATEGIES) -> Any:
    config = api.normalize(api.decode_strict(parameters, where="w"), gates)
    api.validate(config, gates, where="w")
    return config


def refusal(parameters: dict[str, Any], gates: FeatureGates = ALL_STRATEGIES) -> str:
    with pytest.raises(InvalidConfigError) as caught:
        resolve(parameters, gates)
    return str(caught.value)


def with_mps(**settings: Any) -> dict[str, Any]:
    return a_gpu_config(strategy="MPS", mpsConfig=settings)


@pytest.mark.parametrize("name", FULL)
def test_every_full_example_is_valid(name):
    resolve(FULL[name])


@pytest.mark.parametrize("kind", ["GpuConfig", "MigDeviceConfig", "VfioDeviceConfig"])
def test_bare_config_is_valid_without_gates(kind):
    resolve(a_config(kind), FeatureGates())


@pytest.mark.parametrize(
    "block",
    [
        {},
        {"timeSlicingConfig": None},
        {"timeSlicingConfig": {}},
        {"timeSlicingConfig": {"interval": None}},
    ],
)
def test_time_slicing_without_an_interval_means_default(block):
    config = resolve(a_gpu_config(strategy="TimeSlicing", **block))
    assert config.sharing.time_slicing_config.interval is api.Interval.DEFAULT


def test_config_not_normalized_can_be_validated():
    config = api.decode_strict(
        a_gpu_config(strategy="TimeSlicing", timeSlicingConfig={}), where="w"
    )
    api.validate(config, ALL_STRATEGIES)


def test_intervals_are_the_numbers_of_nvidia_smi():
    assert [interval.time_slice for interval in api.Interval] == [0, 1, 2, 3]
    assert [interval.value for interval in api.Interval] == ["Default", "Short", "Medium", "Long"]


def test_mps_without_settings_gets_empty_ones():
    assert resolve(a_gpu_config(strategy="MPS")).sharing.mps_config == api.MpsConfig()
    mig = a_config("MigDeviceConfig", sharing={"strategy": "MPS"})
    assert resolve(mig).sharing.mps_config == api.MpsConfig()


def test_time_slicing_of_mig_device_is_accepted_without_effect():
    config = resolve(a_config("MigDeviceConfig", sharing={"strategy": "TimeSlicing"}))
    assert config.sharing == api.MigSharing(strategy=api.Strategy.TIME_SLICING)


@pytest.mark.parametrize("kind", ["GpuConfig", "MigDeviceConfig"])
@pytest.mark.parametrize(
    ("strategy", "gate"), [("TimeSlicing", "TimeSlicingSettings"), ("MPS", "MPSSupport")]
)
def test_strategy_with_disabled_gate_names_the_gate(kind, strategy, gate):
    message = refusal(a_config(kind, sharing={"strategy": strategy}), FeatureGates())
    assert message.startswith(f'w: $.sharing.strategy: "{strategy}" needs the feature gate {gate}')
    resolve(a_config(kind, sharing={"strategy": strategy}), FeatureGates.of(**{gate: True}))


@pytest.mark.parametrize(
    ("parameters", "stray"),
    [
        (a_gpu_config(strategy="MPS", timeSlicingConfig={}), "timeSlicingConfig"),
        (
            a_gpu_config(strategy="MPS", timeSlicingConfig={"interval": "Short"}),
            "timeSlicingConfig",
        ),
        (a_gpu_config(strategy="TimeSlicing", mpsConfig={}), "mpsConfig"),
        (
            a_config("MigDeviceConfig", sharing={"strategy": "TimeSlicing", "mpsConfig": {}}),
            "mpsConfig",
        ),
    ],
)
def test_settings_of_the_other_strategy_are_refused(parameters, stray):
    assert f"$.sharing.{stray}: does not go with strategy" in refusal(parameters)


@pytest.mark.parametrize("percentage", [-1, 101, 10**20])
def test_active_thread_percentage_lies_within_0_and_100(percentage):
    assert "use 0 to 100" in refusal(with_mps(defaultActiveThreadPercentage=percentage))
    for fine in (0, 1, 100):
        resolve(with_mps(defaultActiveThreadPercentage=fine))


@pytest.mark.parametrize("limit", ["0", "-1Gi", "1023Ki", "1M", 1, 0.5])
def test_pinned_limit_below_1_mib_is_refused(limit):
    assert "use at least 1Mi" in refusal(with_mps(defaultPinnedDeviceMemoryLimit=limit))
    message = refusal(with_mps(defaultPerDevicePinnedMemoryLimit={"GPU-a": limit}))
    assert 'defaultPerDevicePinnedMemoryLimit["GPU-a"]' in message


@pytest.mark.parametrize("limit", ["", "1x", "Gi", "10 Gi"])
def test_non_quantity_pinned_limit_is_refused(limit):
    assert "is no quantity" in refusal(with_mps(defaultPinnedDeviceMemoryLimit=limit))


@pytest.mark.parametrize("key", ["", "-1", "gpu-0", "a", "1.5", "GPU-", "*"])
def test_device_key_is_a_uuid_or_an_index(key):
    assert "use a UUID (GPU-... or MIG-...) or an index from 0" in refusal(
        with_mps(defaultPerDevicePinnedMemoryLimit={key: "1Gi"})
    )


def limits(**settings: Any) -> dict[str, str]:
    return api.pinned_limits(resolve(with_mps(**settings)).sharing.mps_config, GB200, where="w")


@pytest.mark.parametrize(
    ("quantity", "text"), [("1Gi", "1024M"), ("1G", "953M"), ("10M", "9M"), (1048576, "1M")]
)
def test_limits_are_whole_mib_rounded_down(quantity, text):
    assert limits(defaultPinnedDeviceMemoryLimit=quantity) == dict.fromkeys(sorted(GB200), text)


def test_no_limit_given_means_no_limit():
    assert limits() == {}


def test_device_limit_wins_and_indexes_follow_sorted_uuids():
    found = limits(
        defaultPinnedDeviceMemoryLimit="4Gi",
        defaultPerDevicePinnedMemoryLimit={"0": "1Gi", "GPU-c": "2Gi"},
    )
    assert found == {"GPU-a": "1024M", "GPU-b": "4096M", "GPU-c": "2048M"}


@pytest.mark.parametrize("key", ["3", "999999999", "GPU-x"])
def test_limit_for_unknown_device_lists_known_devices(key):
    with pytest.raises(InvalidConfigError, match="it has GPU-a, GPU-b, GPU-c"):
        limits(defaultPerDevicePinnedMemoryLimit={key: "1Gi"})


def test_two_different_limits_for_one_device_are_refused():
    with pytest.raises(InvalidConfigError, match="GPU-a has two limits, 1024M and 2048M"):
        limits(defaultPerDevicePinnedMemoryLimit={"0": "1Gi", "GPU-a": "2Gi"})
    assert limits(defaultPerDevicePinnedMemoryLimit={"0": "1Gi", "GPU-a": "1024Mi"}) == {
        "GPU-a": "1024M"
    }


@pytest.mark.parametrize(
    "iommu",
    [{}, {"iommu": None}, {"iommu": {}}, {"iommu": {"backendPolicy": "", "enableAPIDevice": None}}],
)
def test_passthrough_defaults_to_legacy_iommu(iommu):
    config = resolve(a_config("VfioDeviceConfig", **iommu))
    assert config.iommu.backend_policy is api.IommuBackendPolicy.LEGACY_ONLY
    assert config.iommu.enable_api_device is False


@pytest.mark.parametrize("kind", ["ComputeDomainChannelConfig", "ComputeDomainDaemonConfig"])
@pytest.mark.parametrize("domain", ["", "../../etc", "a b", "a/b", "-a", "x" * 64])
def test_domain_id_is_a_uid(kind, domain):
    assert "give the UID of the ComputeDomain" in refusal(a_config(kind, domainID="")).replace(
        "that", "the UID"
    )
    assert "$.domainID" in refusal(a_config(kind, domainID=domain))
    assert "$.domainID: is empty" in refusal(a_config(kind))


def test_channel_mode_defaults_to_single():
    for fields, mode in (
        ({}, "Single"),
        ({"allocationMode": ""}, "Single"),
        ({"allocationMode": "All"}, "All"),
    ):
        config = resolve(a_config("ComputeDomainChannelConfig", domainID=DOMAIN_UID, **fields))
        assert config.allocation_mode.value == mode


@pytest.mark.parametrize("name", FULL)
def test_normalizing_twice_changes_nothing(name):
    once = resolve(FULL[name])
    assert api.normalize(once, ALL_STRATEGIES) == once

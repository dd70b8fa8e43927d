"""Decoding: strict for users, lenient for our own records, and an InvalidConfigError for the
rest.
"""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra_core import api
from nvdra_core.errors import InvalidConfigError
from tests.unit.api.examples import ALL_STRATEGIES, FULL, MPS, a_config, a_gpu_config

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def decode(parameters: Any) -> api.Config:
    return api.decode_strict(parameters, where="devices.config[0]")


def refusal(parameters: Any) -> str:
    with pytest.raises(InvalidConfigError) as caught:
        decode(parameters)
    return str(caught.value)


def every_place(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values inside an object."""
    found = []
    for key, item in value.items() if isinstance(value, dict) else ():
        found += [(*path, key), *every_place(item, (*path, key))]
    return found


def replaced(value: dict[str, Any], path: tuple[Any, ...], by: Any) -> dict[str, Any]:
    changed = copy.deepcopy(value)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = by
    return changed


PLACES = [(name, path) for name, value in FULL.items() for path in every_place(value)]


@pytest.mark.parametrize("name", FULL)
def test_every_field_of_every_kind_is_read(name):
    config = decode(FULL[name])
    assert type(config).__name__ == name.partition("/")[0]
    assert api.encode(config) == FULL[name]


@pytest.mark.parametrize("name", FULL)
def test_written_config_reads_back_equal(name):
    config = decode(FULL[name])
    assert decode(api.encode(config)) == config
    assert api.decode_lenient(api.encode(config), where="record") == config


def test_every_kind_belongs_to_exactly_one_driver():
    gpu, domain = (
        set(api.CONFIGS_OF_DRIVER[d]) for d in (api.GPU_DRIVER, api.COMPUTE_DOMAIN_DRIVER)
    )
    assert not gpu & domain
    assert {cls.__name__ for cls in gpu | domain} == {name.partition("/")[0] for name in FULL}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            a_gpu_config(strategy="Foo"),
            '$.sharing.strategy: "Foo" is not known; use TimeSlicing or MPS',
        ),
        (
            a_gpu_config(strategy="mps"),
            '$.sharing.strategy: "mps" is not known; use TimeSlicing or MPS',
        ),
        (a_gpu_config(), "$.sharing.strategy: missing; use TimeSlicing or MPS"),
        (
            a_gpu_config(strategy=None),
            "$.sharing.strategy: null is not known; use TimeSlicing or MPS",
        ),
        (a_config("GpuConfig", Sharing={}), '$: unknown field "Sharing"; write sharing'),
        (a_config("GpuConfig", share={}), '$: unknown field "share"; known are: sharing'),
        (a_config("GpuConfig", metadata={}), '$: unknown field "metadata"; known are: sharing'),
        (
            a_gpu_config(strategy="TimeSlicing", timeSlicingConfig={"interval": "short"}),
            '$.sharing.timeSlicingConfig.interval: "short" is not known; use Default or Short or Medium or Long',
        ),
        (
            a_config(
                "MigDeviceConfig", sharing={"strategy": "TimeSlicing", "timeSlicingConfig": {}}
            ),
            '$.sharing: unknown field "timeSlicingConfig"; known are: strategy, mpsConfig',
        ),
        (
            a_gpu_config(strategy="MPS", mpsConfig={"defaultActiveThreadPercentage": 50.0}),
            "$.sharing.mpsConfig.defaultActiveThreadPercentage: expected a whole number, got 50.0",
        ),
        (
            a_gpu_config(
                strategy="MPS", mpsConfig={"defaultPerDevicePinnedMemoryLimit": {"0": True}}
            ),
            '$.sharing.mpsConfig.defaultPerDevicePinnedMemoryLimit["0"]: expected a quantity such as 512Mi or 10Gi, got true',
        ),
        (
            a_config("VfioDeviceConfig", iommu={"enableApiDevice": True}),
            '$.iommu: unknown field "enableApiDevice"; write enableAPIDevice',
        ),
        (
            a_config("ComputeDomainChannelConfig", domainID="u", allocationMode="all"),
            '$.allocationMode: "all" is not known; use Single or All',
        ),
        (
            {"kind": "GpuConfig"},
            "$.apiVersion: missing; add apiVersion: resource.nvidia.com/v1beta1",
        ),
        (
            {"apiVersion": "resource.nvidia.com/v1", "kind": "GpuConfig"},
            '$.apiVersion: "resource.nvidia.com/v1" is not known; use resource.nvidia.com/v1beta1',
        ),
        ([1], "$: expected an object, got [1]"),
    ],
)
def test_refusal_names_place_path_value_and_remedy(parameters, message):
    assert refusal(parameters) == f"devices.config[0]: {message}"


@pytest.mark.parametrize(
    "kind", [None, "", "gpuConfig", "ComputeDomain", "ComputeDomainClique", 1, ["GpuConfig"]]
)
def test_unknown_config_kind_error_lists_known_kinds(kind):
    assert "use GpuConfig or MigDeviceConfig" in refusal(
        {"apiVersion": api.API_VERSION, "kind": kind}
    )


def test_missing_kind_is_refused():
    assert "$.kind: missing; add kind: GpuConfig or" in refusal({"apiVersion": api.API_VERSION})


def test_long_values_are_cut_in_messages():
    assert len(refusal(a_gpu_config(strategy="x" * 9000))) < 300


def test_unset_enums_may_be_written_as_empty_text():
    config = decode(a_config("VfioDeviceConfig", iommu={"backendPolicy": ""}))
    assert config == api.VfioDeviceConfig(
        iommu=api.IommuConfig(backend_policy=api.IommuBackendPolicy.UNSET)
    )


def test_records_may_have_fields_of_a_later_release():
    stored = a_gpu_config(strategy="MPS", mpsConfig=MPS | {"later": 1}, later={}) | {"later": [1]}
    assert api.decode_lenient(stored, where="record") == decode(
        a_gpu_config(strategy="MPS", mpsConfig=MPS)
    )
    assert api.decode_lenient({"kind": "GpuConfig"}, where="record") == api.GpuConfig()


def test_invalid_records_are_refused():
    senseless: list[Any] = [{"kind": "Later"}, a_gpu_config(strategy="Later"), []]
    for stored in senseless:
        with pytest.raises(InvalidConfigError, match=r"^record: "):
            api.decode_lenient(stored, where="record")


def test_equal_meaning_gives_an_equal_key():
    first = a_gpu_config(
        strategy="MPS", mpsConfig={"defaultPinnedDeviceMemoryLimit": "1Gi", "multiUser": False}
    )
    second = a_gpu_config(mpsConfig={"defaultPinnedDeviceMemoryLimit": 1073741824}, strategy="MPS")
    third = a_gpu_config(strategy="MPS")
    keys = [
        api.canonical_key(api.normalize(decode(c), ALL_STRATEGIES)) for c in (first, second, third)
    ]
    assert keys[0] == keys[1] != keys[2]
    assert keys[2] == '{"kind":"GpuConfig","sharing":{"mpsConfig":{},"strategy":"MPS"}}'


def everything(parameters: Any) -> None:
    """All that a plugin does with a config; only an InvalidConfigError may come out."""
    read_and_judge(parameters, api.decode_strict)
    read_and_judge(parameters, api.decode_lenient)


def read_and_judge(parameters: Any, read: Any) -> None:
    try:
        config = api.normalize(read(parameters, where="w"), ALL_STRATEGIES)
        api.canonical_key(config)
        api.validate(config, ALL_STRATEGIES)
    except InvalidConfigError as error:
        str(error).encode()


@given(ANY_JSON)
def test_any_top_level_json_is_refused(value):
    everything(value)


@given(st.sampled_from(PLACES), ANY_JSON)
def test_any_json_is_decoded_or_refused(place, value):
    name, path = place
    everything(replaced(FULL[name], path, value))


@pytest.mark.parametrize(
    "bad", [None, True, 0, -1, 1.5, "", "x", [], {}, [{}], {"a": 1}, 10**30, float("nan"), "\ud800"]
)
@pytest.mark.parametrize(("name", "path"), PLACES)
def test_wrong_json_types_in_every_field_are_read_or_refused(name, path, bad):
    everything(replaced(FULL[name], path, bad))


@given(
    st.sampled_from([(n, p) for n, p in PLACES if isinstance(FULL[n][p[0]], dict)]),
    st.text(min_size=1),
)
def test_any_unknown_field_is_refused(place, extra):
    name, path = place
    parent: Any = FULL[name]
    for key in path[:-1]:
        parent = parent[key]
    if extra not in parent and path[-2:-1] != ("defaultPerDevicePinnedMemoryLimit",):
        changed = replaced(FULL[name], (*path[:-1], extra), None)
        assert "unknown field" in refusal(changed) or extra in {"mpsConfig", "timeSlicingConfig"}


def test_nesting_too_deep_for_python_is_refused():
    deep: Any = {}
    for _ in range(100_000):
        deep = {"a": deep}
    everything(a_config("GpuConfig", sharing=deep))

"""Feature gates: upstream's names, defaults and conflicts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra_core.errors import ConfigError
from nvdra_core.gates import GROUPS, KNOWN, RELATIONS, FeatureGates, Gate, RelationKind

BETA = {
    "IMEXDaemonsWithDNSNames", "ComputeDomainCliques", "CrashOnNVLinkFabricErrors",
    "ContextualLogging", "LoggingBetaOptions",
}  # fmt: skip


def test_defaults_are_upstreams():
    on = {gate.value for gate in Gate if FeatureGates().enabled(gate)}
    assert on == BETA
    FeatureGates().validate()


def test_every_gate_is_described():
    assert set(KNOWN) == set(Gate)


@pytest.mark.parametrize(
    "text",
    [
        "DynamicMIG=true",
        "DynamicMIG=true,",
        " DynamicMIG = True , ",
        ",,DynamicMIG=1",
        "DynamicMIG=T",
    ],
)
def test_upstream_gate_syntax_is_accepted(text):
    assert FeatureGates.parse(text) == FeatureGates.of(DynamicMIG=True)


@pytest.mark.parametrize("text", ["", ",", " "])
def test_empty_gates_are_the_defaults(text):
    assert FeatureGates.parse(text) == FeatureGates()


def test_unknown_gate_error_lists_known_gates():
    with pytest.raises(
        ConfigError, match=r'"DynamicMig": not known; known are: AllAlpha, .*DynamicMIG'
    ):
        FeatureGates.parse("DynamicMig=true")


@pytest.mark.parametrize("text", ["DynamicMIG", "DynamicMIG=", "DynamicMIG=yes", "DynamicMIG=tRue"])
def test_non_boolean_gate_value_is_refused(text):
    with pytest.raises(ConfigError, match="expected DynamicMIG=true or DynamicMIG=false"):
        FeatureGates.parse(text)


def test_gate_without_a_name_is_refused():
    with pytest.raises(ConfigError):
        FeatureGates.parse("=true")


def test_gate_with_both_values_is_refused():
    with pytest.raises(ConfigError, match="DynamicMIG: given as true and as false"):
        FeatureGates.parse("DynamicMIG=true,DynamicMIG=false")
    assert FeatureGates.parse("DynamicMIG=true,DynamicMIG=1").enabled(Gate.DYNAMIC_MIG)


def test_named_gate_overrides_its_group_in_any_order():
    for text in ("AllAlpha=true,DynamicMIG=false", "DynamicMIG=false,AllAlpha=true"):
        gates = FeatureGates.parse(text)
        assert not gates.enabled(Gate.DYNAMIC_MIG)
        assert gates.enabled(Gate.MPS_SUPPORT)
    assert not FeatureGates.parse("AllBeta=false").enabled(Gate.COMPUTE_DOMAIN_CLIQUES)


@pytest.mark.parametrize(
    "text",
    [
        "DynamicMIG=true,PassthroughSupport=true",
        "DynamicMIG=true,MPSSupport=true",
        "PassthroughSupport=true,NVMLDeviceHealthCheck=true",
        "DeviceMetadata=true",
        "IMEXDaemonsWithDNSNames=false",
    ],
)
def test_upstream_gate_conflicts_are_refused(text):
    with pytest.raises(ConfigError):
        FeatureGates.parse(text).validate()


@pytest.mark.parametrize(
    "text",
    [
        "DynamicMIG=true,NVMLDeviceHealthCheck=true",
        "MPSSupport=true,NVMLDeviceHealthCheck=true",
        "DynamicMIG=true,ConsumableShares=true",
        "ConsumableShares=true,MPSSupport=true",
        "PassthroughSupport=true,DeviceMetadata=true",
        "IMEXDaemonsWithDNSNames=false,ComputeDomainCliques=false",
    ],
)
def test_combinations_upstream_allows_are_accepted(text):
    FeatureGates.parse(text).validate()


def test_all_alpha_names_gates_to_disable():
    with pytest.raises(ConfigError, match="set one to false") as caught:
        FeatureGates.parse("AllAlpha=true").validate()
    assert str(caught.value).count("exclude each other") == 3
    FeatureGates.parse("AllAlpha=true,DynamicMIG=false,NVMLDeviceHealthCheck=false").validate()


@given(st.dictionaries(st.sampled_from([g.value for g in Gate]), st.booleans()))
def test_printed_gates_parse_to_the_same_gates(values):
    gates = FeatureGates.of(**values)
    assert FeatureGates.parse(str(gates)) == gates


@given(st.text())
def test_any_text_gives_gates_or_a_config_error(text):
    try:
        FeatureGates.parse(text)
    except ConfigError as error:
        assert "feature gate" in str(error)


def test_groups_are_no_gates():
    assert not set(GROUPS) & {gate.value for gate in Gate}
    assert {relation.kind for relation in RELATIONS} == set(RelationKind)

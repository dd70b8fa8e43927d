"""Settings: every source, every key, every wrong value."""

from pathlib import Path

import pytest

from nvdra_core import gates
from nvdra_core.errors import ConfigError
from nvdra_node import config


def load(text=None, environment=None, flags=None):
    return config.load(
        file_text=text,
        file_name="/etc/nvdra/config.yaml",
        environment=environment or {},
        flags=flags or {},
        host_name="Tray-07",
    )


def test_settings_have_their_defaults():
    settings = load()
    assert settings.node_name == "tray-07"
    assert settings.state_dir == Path("/var/lib/nvdra")
    assert set(settings.sources.values()) == {"default"}


def test_flag_beats_environment_beats_file_beats_default():
    text = "nodeName: from-file\ncdiRoot: /file\nlogVerbosity: 1"
    environment = {"NODE_NAME": "from-env", "CDI_ROOT": "/env"}
    settings = load(text, environment, {"node_name": "from-flag"})
    assert (settings.node_name, str(settings.cdi_root), settings.verbosity) == (
        "from-flag",
        "/env",
        1,
    )
    assert settings.sources["nodeName"] == "flag --node-name"
    assert settings.sources["logVerbosity"] == "/etc/nvdra/config.yaml"


def test_example_file_has_the_defaults():
    lines = [line for line in config.example().splitlines() if line.startswith("# ")]
    keys = {option.key for option in config.OPTIONS}
    settings = [line[2:] for line in lines if line[2:].partition(":")[0] in keys]
    assert len(settings) == len(keys)
    settings = [line for line in settings if not line.endswith(":")]
    assert config.describe(load("\n".join(settings))) == config.describe(load())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nodename: x", "did you mean 'nodeName'?"),
        ("- a", "expected a map"),
        ("a: [", "is not YAML"),
        ("nodeName: {}", "nodeName is {}"),
        ("nodeName: A_b", "lower-case letters"),
        ("featureGates: {A: 1}", "a map of gate name to true or false"),
        ("featureGates: 'A=maybe'", "A=true,B=false"),
        ("featureGates: 'A=true,A=false'", "given as true and as false"),
        ("httpEndpoint: 5", "httpEndpoint is 5"),
        ("httpEndpoint: 'localhost'", "address:port"),
        ("httpEndpoint: ':99999'", "address:port"),
        ("httpEndpoint: '::1:8080'", "[::1]:8080"),
        ("nvmlTimeoutSeconds: no", "at least 0.1"),
        ("nvmlTimeoutSeconds: .nan", "at least 0.1"),
        ("stateDir: var/lib", "an absolute path"),
        ("additionalXidsToIgnore: [a]", "XID numbers"),
        ("additionalXidsToIgnore: [-1]", "none of them negative"),
        ("consumableShares: ''", "disabled, memory, unlimited"),
        ("claimStatus: maybe", "auto or off"),
        ("logVerbosity: 8", "0 (errors"),
        ("logVerbosity: true", "0 (errors"),
    ],
)
def test_invalid_file_error_names_file_key_and_expected(text, says):
    with pytest.raises(ConfigError) as refused:
        load(text)
    assert "/etc/nvdra/config.yaml" in str(refused.value)
    assert says in str(refused.value)


@pytest.mark.parametrize("value", [None, True, 7, 1.5, "", "x", [], ["x"], {}, {"a": 1}, b"x"])
@pytest.mark.parametrize("option", config.OPTIONS, ids=lambda option: option.key)
def test_any_value_is_accepted_or_refused(option, value):
    try:
        option.parse(value)
    except ValueError as error:
        assert str(error)


def test_upstreams_text_form_of_gates_may_end_in_a_comma():
    assert load("featureGates: 'A=true,B=False,'").feature_gates == {"A": True, "B": False}


@pytest.mark.parametrize("text", ["A=1,B=T,C=0", "A=TRUE,B=t,C=F", " A = true , B=True,,C=false "])
def test_gates_are_parsed_as_by_controller_and_upstream(text):
    assert load(flags={"feature_gates": text}).feature_gates == {"A": True, "B": True, "C": False}
    assert gates.parse_words(text) == {"A": True, "B": True, "C": False}


def test_share_count_is_normalised_as_in_the_api():
    assert load("consumableShares: '007'").consumable_shares == "7"


def test_packaged_configuration_file_is_the_example():
    packaged = Path(__file__).parents[3] / "packaging/etc/config.yaml"
    assert packaged.read_text() == config.example()

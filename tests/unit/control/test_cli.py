"""Settings of the controller: upstream's flags and environment, defaults that are safe, errors that say what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nvdra_cluster import cli
from nvdra_cluster.settings import ImexMode
from nvdra_core.api import Isolation
from nvdra_core.errors import ConfigError

TOP = Path(__file__).resolve().parents[3]
UPSTREAMS = {
    "POD_NAME", "NAMESPACE", "MAX_NODES_PER_IMEX_DOMAIN", "IMEX_MODE", "IMEX_ISOLATION",
    "HTTP_ENDPOINT", "METRICS_PATH", "LEADER_ELECTION_ENABLED", "LEADER_ELECTION_LEASE_LOCK_NAMESPACE",
    "LEADER_ELECTION_LEASE_LOCK_NAME", "LEADER_ELECTION_LEASE_DURATION", "LEADER_ELECTION_RENEW_DEADLINE",
    "LEADER_ELECTION_RETRY_PERIOD", "KUBECONFIG", "FEATURE_GATES",
}  # fmt: skip


def chosen(*argv: str, namespace: str = "nvdra", **environment: str):
    return cli.settings(cli.read(argv, environment), namespace)


def test_flags_and_environment_have_upstreams_names():
    assert {flag.env for flag in cli.FLAGS} >= UPSTREAMS
    assert all(flag.name == "--" + flag.env.lower().replace("_", "-") for flag in cli.FLAGS)


def test_defaults():
    found = chosen()
    assert found.is_elected
    assert found.issues_certificates
    assert found.http_endpoint == ""
    assert (found.fabric.slot_count, found.fabric.isolation) == (18, Isolation.DOMAIN)
    assert found.fabric.mode is ImexMode.DRIVER_MANAGED
    times = found.lease_times
    assert (times.duration_s, times.renew_deadline_s, times.retry_period_s) == (15.0, 10.0, 2.0)
    assert (found.fabric.namespace, found.lease_namespace) == ("nvdra", "nvdra")


def test_flag_beats_environment_and_that_default():
    assert chosen(MAX_NODES_PER_IMEX_DOMAIN="36").fabric.slot_count == 36
    flags = ("--max-nodes-per-imex-domain", "72")
    assert chosen(*flags, MAX_NODES_PER_IMEX_DOMAIN="36").fabric.slot_count == 72


def test_two_starts_of_one_pod_have_two_identities():
    first, second = chosen(POD_NAME="pod-0"), chosen(POD_NAME="pod-0")
    assert first.identity.startswith("pod-0-")
    assert first.identity != second.identity


def test_isolation_by_channel_is_served():
    assert chosen(IMEX_ISOLATION="channel").fabric.isolation is Isolation.CHANNEL


def test_host_imex_needs_its_gate_and_gets_no_certificates():
    with pytest.raises(ConfigError, match="HostManagedIMEXDaemon=true"):
        chosen(IMEX_MODE="hostManaged")
    found = chosen(IMEX_MODE="hostManaged", FEATURE_GATES="HostManagedIMEXDaemon=true,")
    assert found.fabric.mode is ImexMode.HOST_MANAGED
    assert not found.issues_certificates


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"IMEX_MODE": "driver"}, "use driverManaged or hostManaged"),
        ({"IMEX_ISOLATION": "node"}, "use domain or channel"),
        ({"MAX_NODES_PER_IMEX_DOMAIN": "many"}, "whole number"),
        ({"MAX_NODES_PER_IMEX_DOMAIN": "0"}, "out of range"),
        ({"IMEX_PORTS": "24000"}, "FIRST-LAST"),
        ({"LEADER_ELECTION_ENABLED": "perhaps"}, "true or false"),
        ({"LEADER_ELECTION_LEASE_DURATION": "soon"}, "such as 15s"),
        ({"LEADER_ELECTION_RENEW_DEADLINE": "20s"}, "above the renew"),
        ({"FEATURE_GATES": "Nonsense=true"}, "not known"),
    ],
)
def test_wrong_setting_is_refused_at_start(environment, message):
    with pytest.raises(ConfigError, match=message):
        chosen(**environment)


def test_without_namespace_it_does_not_start():
    with pytest.raises(ConfigError, match="--namespace"):
        chosen(namespace="")


def test_outside_pod_it_says_what_is_missing():
    # In a process of its own: the program sets up the logging of all of its process.
    argv = [sys.executable, "-m", "nvdra_cluster.cli", "--namespace", "nvdra"]
    done = subprocess.run(argv, cwd=TOP, env={}, text=True, capture_output=True, timeout=60)
    assert done.returncode == cli.EXIT_CONFIG
    assert "KUBERNETES_SERVICE_HOST" in done.stderr


def test_rack_label_must_be_key_of_label():
    assert chosen().fabric.rack_label == ""
    key = "node-restriction.kubernetes.io/nvlink-rack"
    assert chosen(RACK_LABEL=key).fabric.rack_label == key
    with pytest.raises(ConfigError, match="rack label"):
        chosen(RACK_LABEL="rack=r1")

"""Settings of the ComputeDomain services: upstream's flags and variables, and invalid values."""

from __future__ import annotations

from pathlib import Path

import pytest

from nvdra_core.errors import ConfigError
from nvdra_node import cli, config
from nvdra_node.app.imex import policy
from nvdra_node.imex.model import AfterAbruptEnd, Mode


def load(text="", environment=None):
    return config.load(
        file_text=text, file_name="f", environment=environment or {}, flags={}, host_name="n"
    )


def test_upstreams_environment_names_are_accepted():
    found = load(
        environment={
            "IMEX_MODE": "hostManaged",
            "IMEX_HOST_SOCKET_PATH": "/run/imex.sock",
            "GPU_CLIQUE_LABEL_ENABLED": "true",
        }
    )
    assert (found.imex_mode, found.gpu_clique_label) == ("hostManaged", True)
    assert found.imex_host_socket_path == Path("/run/imex.sock")


@pytest.mark.parametrize("command", ["compute-domain", "imex-supervisor"])
def test_upstreams_flags_are_accepted_by_both_services(command):
    flags = [
        "--imex-mode=hostManaged",
        "--imex-host-socket-path=/s",
        "--gpu-clique-label-enabled=true",
    ]
    words = [command, *flags]
    arguments = cli._parser().parse_args(words)
    assert (arguments.imex_mode, arguments.imex_host_socket_path) == ("hostManaged", "/s")


def test_defaults_are_the_safe_ones():
    found = policy(load())
    assert found.mode is Mode.DRIVER_MANAGED and found.needs_encryption
    assert found.after_abrupt_end is AfterAbruptEnd.RESTART


@pytest.mark.parametrize(
    "text",
    [
        "imexMode: both", "imexAddress: host.example", "imexAfterAbruptEnd: ignore",
        "imexEncryption: maybe", "gpuCliqueLabelEnabled: 1", "imexDir: relative",
    ],
)  # fmt: skip
def test_invalid_values_are_refused(text):
    with pytest.raises(ConfigError, match=text.partition(":")[0]):
        load(text)


def test_ipv6_address_is_accepted():
    assert load("imexAddress: fd00::1").imex_address == "fd00::1"

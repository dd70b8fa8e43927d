"""Upstream's flags and environment names of the GPU plugin mean here what they mean there."""

import pytest

from nvdra_node import config
from nvdra_node.config import OPTIONS

SAME = [
    ("--node-name", "NODE_NAME", "tray-07", "node_name"),
    ("--kubeconfig", "KUBECONFIG", "/etc/nvdra/kubeconfig", "kubeconfig"),
    ("--nvidia-driver-root", "NVIDIA_DRIVER_ROOT", "/run/nvidia/driver", "driver_root"),
    ("--cdi-root", "CDI_ROOT", "/etc/cdi", "cdi_root"),
    (
        "--nvidia-cdi-hook-path",
        "NVIDIA_CDI_HOOK_PATH",
        "/opt/nvidia-cdi-hook",
        "nvidia_cdi_hook_path",
    ),
    (
        "--kubelet-registrar-directory-path",
        "KUBELET_REGISTRAR_DIRECTORY_PATH",
        "/data/registry",
        "registrar_dir",
    ),
    (
        "--kubelet-plugins-directory-path",
        "KUBELET_PLUGINS_DIRECTORY_PATH",
        "/data/plugins",
        "plugins_dir",
    ),
    ("--http-endpoint", "HTTP_ENDPOINT", ":8080", "http_endpoint"),
    ("--metrics-path", "METRICS_PATH", "/m", "metrics_path"),
    ("--feature-gates", "FEATURE_GATES", "DynamicMIG=true,", "feature_gates"),
    ("--consumable-shares", "CONSUMABLE_SHARES", "4", "consumable_shares"),
    ("--additional-xids-to-ignore", "ADDITIONAL_XIDS_TO_IGNORE", "13,31", "ignored_xids"),
    ("--logging-format", "LOGGING_FORMAT", "json", "log_format"),
    ("-v", "LOG_VERBOSITY", "6", "verbosity"),
]


@pytest.mark.parametrize(("flag", "variable", "value", "field"), SAME, ids=lambda row: row)
def test_upstream_flags_and_environment_are_accepted(
    flag: str, variable: str, value: str, field: str
):
    (option,) = [option for option in OPTIONS if flag in option.flags]
    assert (option.env, option.field) == (variable, field)
    by_variable = load({variable: value}, {})
    by_flag = load({}, {field: value})
    assert getattr(by_variable, field) == getattr(by_flag, field) != getattr(load({}, {}), field)


def load(environment: dict[str, str], flags: dict[str, str]) -> config.NodeConfig:
    return config.load(
        file_text=None,
        file_name="config.yaml",
        environment=environment,
        flags=flags,
        host_name="node",
    )

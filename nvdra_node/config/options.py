"""The table of all settings: key in the file, flag, environment name, default, reader, help.

A new setting is one row here and one field of ``NodeConfig``. Flags and environment names are upstream's where
upstream has the same setting.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from nvdra_node.config import values

KUBECONFIGS = (
    Path("/etc/nvdra/kubeconfig"),
    Path("/var/lib/kubelet/kubeconfig"),
    Path("/etc/kubernetes/kubelet.conf"),
    Path("/var/lib/rancher/rke2/agent/kubelet.kubeconfig"),
    Path("/var/lib/rancher/k3s/agent/kubelet.kubeconfig"),
    Path("/var/lib/k0s/kubelet.conf"),
    Path("/var/snap/microk8s/current/credentials/kubelet.config"),
)
"""Searched in this order if none is configured: nvdra's own credential, then the kubelet's (kubeadm and clouds, RKE2,
k3s, k0s, MicroK8s)."""


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """One setting: its sources, its parser, its help."""

    field: str
    key: str
    flags: tuple[str, ...]
    env: str | None
    default: Any
    parse: Callable[[Any], Any]
    help: str


def _option(
    name: str, parse: Callable[[Any], Any], default: Any, text: str, **where: Any
) -> Option:
    words = name.split("_")
    key = where.get("key") or words[0] + "".join(w.capitalize() for w in words[1:])
    return Option(
        field=name,
        key=key,
        flags=where.get("flags") or ("--" + name.replace("_", "-"),),
        env=where.get("env"),
        default=default,
        parse=parse,
        help=text,
    )


OPTIONS: tuple[Option, ...] = (
    _option(
        "node_name",
        values.as_node_name,
        None,
        "name of this host's Node object; default: the Node of the credential, else the host name",
        env="NODE_NAME",
    ),
    _option(
        "kubeconfig",
        values.as_optional_path,
        "",
        "kubeconfig of the credential to use; default: the first of "
        + ", ".join(map(str, KUBECONFIGS)),
        env="KUBECONFIG",
    ),
    _option(
        "driver_root",
        values.as_path,
        "/",
        "root of the NVIDIA driver's files on this host",
        key="nvidiaDriverRoot",
        flags=("--nvidia-driver-root", "--driver-root"),
        env="NVIDIA_DRIVER_ROOT",
    ),
    _option("dev_root", values.as_path, "/dev", "where device nodes are"),
    _option("proc_root", values.as_path, "/proc", "where the kernel's /proc is"),
    _option("sys_root", values.as_path, "/sys", "where the kernel's /sys is"),
    _option(
        "cdi_root",
        values.as_path,
        "/var/run/cdi",
        "directory for CDI files; the container runtime must read it",
        env="CDI_ROOT",
    ),
    _option(
        "nvidia_ctk_path",
        values.as_path,
        "/usr/bin/nvidia-ctk",
        "NVIDIA's program that lists the driver's files",
    ),
    _option(
        "nvidia_cdi_hook_path",
        values.as_path,
        "/usr/bin/nvidia-cdi-hook",
        "NVIDIA's container hook, as the container runtime sees it",
        env="NVIDIA_CDI_HOOK_PATH",
    ),
    _option(
        "registrar_dir",
        values.as_path,
        "/var/lib/kubelet/plugins_registry",
        "the kubelet's plugin registry directory",
        key="kubeletRegistrarDirectoryPath",
        flags=("--kubelet-registrar-directory-path",),
        env="KUBELET_REGISTRAR_DIRECTORY_PATH",
    ),
    _option(
        "plugins_dir",
        values.as_path,
        "/var/lib/kubelet/plugins",
        "the kubelet's plugin data directory",
        key="kubeletPluginsDirectoryPath",
        flags=("--kubelet-plugins-directory-path",),
        env="KUBELET_PLUGINS_DIRECTORY_PATH",
    ),
    _option(
        "state_dir",
        values.as_path,
        "/var/lib/nvdra",
        "records of prepared claims; must survive a reboot",
    ),
    _option(
        "http_endpoint",
        values.as_endpoint,
        "",
        "address:port for metrics and health; empty: off",
        env="HTTP_ENDPOINT",
    ),
    _option(
        "metrics_path",
        values.as_text,
        "/metrics",
        "path of the metrics; empty: off",
        env="METRICS_PATH",
    ),
    _option(
        "feature_gates",
        values.as_gates,
        {},
        "feature gates: a map, or A=true,B=false",
        env="FEATURE_GATES",
    ),
    _option(
        "consumable_shares",
        values.as_shares,
        "disabled",
        "let several claims share a GPU: disabled, memory, unlimited, or the number of shares "
        "(gate ConsumableShares)",
        env="CONSUMABLE_SHARES",
    ),
    _option(
        "ignored_xids",
        values.as_xids,
        [],
        "XID events that do not make a GPU unhealthy, besides the built-in ones",
        key="additionalXidsToIgnore",
        flags=("--additional-xids-to-ignore",),
        env="ADDITIONAL_XIDS_TO_IGNORE",
    ),
    _option(
        "claim_status",
        values.one_of("auto", "off"),
        "auto",
        "write status.devices of claims: auto (when the credential may) or off",
    ),
    _option(
        "verbosity",
        values.as_verbosity,
        2,
        "log verbosity, 0 to 7",
        key="logVerbosity",
        flags=("-v", "--verbosity"),
        env="LOG_VERBOSITY",
    ),
    _option(
        "log_format",
        values.one_of("text", "json"),
        "text",
        "text or json",
        key="loggingFormat",
        flags=("--logging-format",),
        env="LOGGING_FORMAT",
    ),
    _option(
        "nvml_timeout_s",
        values.number(0.1),
        5.0,
        "seconds one NVML call on one GPU with persistence mode may take before the GPU counts as hung",
        key="nvmlTimeoutSeconds",
        flags=("--nvml-timeout-seconds",),
    ),
    _option(
        "rescan_interval_s",
        values.number(1),
        60.0,
        "seconds between scans of all GPUs",
        key="rescanIntervalSeconds",
        flags=("--rescan-interval-seconds",),
    ),
    _option(
        "driver_poll_s",
        values.number(0.1),
        2.0,
        "seconds between checks whether the NVIDIA driver was loaded or replaced",
        key="driverPollSeconds",
        flags=("--driver-poll-seconds",),
    ),
    _option(
        "sweep_interval_s",
        values.number(1),
        600.0,
        "seconds between sweeps of records whose claim was deleted",
        key="sweepIntervalSeconds",
        flags=("--sweep-interval-seconds",),
    ),
    _option(
        "compute_domain_http_endpoint",
        values.as_endpoint,
        "",
        "address:port for metrics and health of the ComputeDomain plugin; empty: off",
    ),
    _option(
        "imex_http_endpoint",
        values.as_endpoint,
        "",
        "address:port for metrics and health of the IMEX supervisor; empty: off",
    ),
    _option(
        "gpu_clique_label",
        values.as_switch,
        False,
        "set the label nvidia.com/gpu.clique of this Node (a credential of the chart needs its node.cliqueLabel)",
        key="gpuCliqueLabelEnabled",
        flags=("--gpu-clique-label-enabled",),
        env="GPU_CLIQUE_LABEL_ENABLED",
    ),
    _option(
        "shared_channels",
        values.as_switch,
        False,
        "publish channel-0 for several claims at once (needs DRAConsumableCapacity): pods of one ComputeDomain on one "
        "node then need no shared claim",
    ),
    _option(
        "imex_mode",
        values.one_of("driverManaged", "hostManaged"),
        "driverManaged",
        "who runs nvidia-imex: driverManaged (nvdra) or hostManaged (nvidia-imex.service of this host)",
        env="IMEX_MODE",
    ),
    _option(
        "imex_host_socket_path",
        values.as_path,
        "/etc/nvidia-imex/imex_ctrl.sock",
        "command socket of the host's own nvidia-imex, for hostManaged",
        env="IMEX_HOST_SOCKET_PATH",
    ),
    _option(
        "imex_after_abrupt_end",
        values.one_of("restart", "hold"),
        "restart",
        "when nvidia-imex died under claims: restart it, or hold until these claims have ended",
    ),
    _option(
        "imex_encryption",
        values.one_of("disabled", "required"),
        "required",
        "TLS between IMEX peers: required (with certificates from the controller) or disabled; the same on all nodes "
        "of a clique",
    ),
    _option(
        "imex_linger_s",
        values.number(0),
        30.0,
        "seconds that nvidia-imex keeps running after the last claim of a ComputeDomain",
        key="imexLingerSeconds",
        flags=("--imex-linger-seconds",),
    ),
    _option(
        "imex_address",
        values.as_optional_address,
        "",
        "address of this host for its IMEX peers; default: the source address towards the API server, else the "
        "InternalIP of the Node; never loopback, link-local or of a container network",
    ),
    _option("imex_path", values.as_path, "/usr/bin/nvidia-imex", "NVIDIA's IMEX daemon"),
    _option(
        "imex_ctl_path",
        values.as_path,
        "/usr/bin/nvidia-imex-ctl",
        "NVIDIA's program that queries the daemon",
    ),
    _option(
        "imex_dir",
        values.as_path,
        "/run/nvdra/imex",
        "files and sockets of the IMEX daemon and its supervisor; a reboot must empty it",
    ),
    _option(
        "imex_persist_dir",
        values.as_path,
        "/run/nvidia-imex",
        "where nvidia-imex keeps persist.dat; only for an nvidia-imex that keeps it elsewhere",
    ),
    _option(
        "unit_broker_socket",
        values.as_path,
        "/run/nvdra/units.sock",
        "socket of nvdra-unit-broker, as nvdra-unit-broker.socket has it",
    ),
    _option("systemctl_path", values.as_path, "/usr/bin/systemctl", "systemd's systemctl"),
    _option("journalctl_path", values.as_path, "/usr/bin/journalctl", "systemd's journalctl"),
)

"""NodeConfig: every setting of the node services; flags override the environment, the file and the defaults.

Read once by ``cli`` into a frozen object. A setting is a row of ``options``. A wrong key or value is a ConfigError that
names the source, the key, the value and what is expected.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from nvdra_core.errors import ConfigError
from nvdra_node.config.options import KUBECONFIGS, OPTIONS, Option

__all__ = ["DEFAULT_FILE", "KUBECONFIGS", "OPTIONS", "NodeConfig", "describe", "example", "load"]

DEFAULT_FILE = Path("/etc/nvdra/config.yaml")


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """All settings. Paths are as this host sees them; times are seconds."""

    node_name: str
    kubeconfig: Path | None
    driver_root: Path
    dev_root: Path
    proc_root: Path
    sys_root: Path
    cdi_root: Path
    nvidia_ctk_path: Path
    nvidia_cdi_hook_path: Path
    registrar_dir: Path
    plugins_dir: Path
    state_dir: Path
    http_endpoint: str
    metrics_path: str
    feature_gates: Mapping[str, bool]
    consumable_shares: str
    ignored_xids: tuple[int, ...]
    claim_status: str
    verbosity: int
    log_format: str
    nvml_timeout_s: float
    rescan_interval_s: float
    driver_poll_s: float
    sweep_interval_s: float
    compute_domain_http_endpoint: str
    imex_http_endpoint: str
    gpu_clique_label: bool
    shared_channels: bool
    imex_mode: str
    imex_host_socket_path: Path
    imex_after_abrupt_end: str
    imex_encryption: str
    imex_linger_s: float
    imex_address: str
    imex_path: Path
    imex_ctl_path: Path
    imex_dir: Path
    imex_persist_dir: Path
    unit_broker_socket: Path
    systemctl_path: Path
    journalctl_path: Path
    sources: Mapping[str, str] = msgspec.field(default_factory=dict)
    """The source of each setting: ``default``, the file, ``environment`` or ``flag``."""


def load(
    *,
    file_text: str | None,
    file_name: str,
    environment: Mapping[str, str],
    flags: Mapping[str, str],
    host_name: str,
) -> NodeConfig:
    """Merge all sources. ``flags``: those given, by field name. Raises ConfigError."""
    from_file = _parse_file(file_text, file_name) if file_text is not None else {}
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for option in OPTIONS:
        source, raw = _choose(option, from_file, file_name, environment, flags)
        if option.field == "node_name" and raw is None:
            raw = host_name.lower()
        try:
            values[option.field] = option.parse(raw)
        except ValueError as error:
            raise ConfigError(
                f"{source}: {option.key} is {raw!r}, expected {error}; {option.help}"
            ) from None
        sources[option.key] = source
    return NodeConfig(**values, sources=sources)


def _choose(
    option: Option,
    from_file: Mapping[str, Any],
    file_name: str,
    environment: Mapping[str, str],
    flags: Mapping[str, str],
) -> tuple[str, Any]:
    if option.field in flags:
        return f"flag {option.flags[-1]}", flags[option.field]
    if option.env and environment.get(option.env):
        return f"environment {option.env}", environment[option.env]
    if option.key in from_file:
        return file_name, from_file[option.key]
    return "default", option.default


def _parse_file(text: str, name: str) -> Mapping[str, Any]:
    """The file as a map."""
    parsed = _parse_yaml(text, name) if text.strip() else {}
    if parsed is None:
        return {}
    if not isinstance(parsed, dict):
        raise ConfigError(f"{name}: contains {type(parsed).__name__}, expected a map of settings")
    known = {option.key for option in OPTIONS}
    for key in parsed:
        if key not in known:
            raise ConfigError(f"{name}: unknown setting {key!r}; {_suggest(str(key), known)}")
    return parsed


def _parse_yaml(text: str, name: str) -> Any:
    lines = [
        line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]
    if not lines:
        return {}
    import yaml  # not loaded for the shipped file, which has comments only

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: is not YAML: {' '.join(str(error).split())}") from error


def _suggest(key: str, known: set[str]) -> str:
    close = difflib.get_close_matches(key, known, 1)
    return f"did you mean {close[0]!r}?" if close else "known: " + ", ".join(sorted(known))


def describe(config: NodeConfig) -> Mapping[str, Any]:
    """The effective settings as plain JSON values, for the log line at start and ``check-config``."""
    result: dict[str, Any] = {}
    for option in OPTIONS:
        value = getattr(config, option.field)
        result[option.key] = str(value) if isinstance(value, Path) else value
    return result


def example() -> str:
    """The configuration file of the packages: every setting at its default, commented out."""
    lines = ["# Settings of the nvdra services on this host. Every line shows the default.", ""]
    for option in OPTIONS:
        default = option.default
        if isinstance(default, tuple):
            default = list(default)
        shown = (
            {None: "", "": '""'}.get(default, default)
            if not isinstance(default, (dict, list))
            else default
        )
        lines += [f"# {option.help}", f"# {option.key}: {shown}".rstrip(), ""]
    return "\n".join(lines)

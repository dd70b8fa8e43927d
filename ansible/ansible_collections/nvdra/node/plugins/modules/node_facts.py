#!/usr/bin/python
"""State of one host that a rollout needs, read at once: run on the host by every playbook of the collection.

Out: the fact ``nvdra_node``. Changes nothing. Runs on Python 3.8 and later with nothing but the standard library.
"""

from __future__ import annotations

import base64
import binascii
import json
import platform
import shutil
import stat
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nvdra.node.plugins.module_utils import cluster_programs

DOCUMENTATION = r"""
module: node_facts
short_description: Read the state of a host that a rollout of nvdra needs
description:
  - Reads the state of package, units, NVIDIA driver, kubelet and other GPU drivers. Changes nothing.
author: nvdra maintainers (@nvdra)
options:
  proc_root:
    description: Where the kernel's /proc is.
    type: path
    default: /proc
  kubelet_dir:
    description: The kubelet's directory.
    type: path
    default: /var/lib/kubelet
  units:
    description: Units to tell the state of.
    type: list
    elements: str
    default: []
  cache_dir:
    description: Where packages that were installed are kept.
    type: path
    default: /var/cache/nvdra
  state_dir:
    description: Where the services keep the records of prepared claims.
    type: path
    default: /var/lib/nvdra
  imex_programs:
    description: Programs of nvidia-imex that must be there.
    type: list
    elements: path
    default: []
  address:
    description: Address of the host for its IMEX peers; empty for the one that the kubelet or the default route has.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Read the state of the host
  nvdra.node.node_facts:
    units: [nvdra-gpu-plugin.service, nvidia-imex.service]
"""

RETURN = r"""
ansible_facts:
  description: Has the dictionary C(nvdra_node).
  returned: always
  type: dict
"""

TOKEN = Path("/var/lib/nvdra/credential/token")


def main() -> None:
    """Read the state and return it."""
    arguments = {
        "proc_root": {"type": "path", "default": "/proc"},
        "kubelet_dir": {"type": "path", "default": "/var/lib/kubelet"},
        "units": {"type": "list", "elements": "str", "default": []},
        "cache_dir": {"type": "path", "default": "/var/cache/nvdra"},
        "state_dir": {"type": "path", "default": "/var/lib/nvdra"},
        "imex_programs": {"type": "list", "elements": "path", "default": []},
        "address": {"type": "str", "default": ""},
    }
    module = AnsibleModule(argument_spec=arguments, supports_check_mode=True)
    kubelet, cache = Path(module.params["kubelet_dir"]), Path(module.params["cache_dir"])
    proc, state = Path(module.params["proc_root"]), Path(module.params["state_dir"])
    form = "deb" if shutil.which("dpkg-query") else "rpm" if shutil.which("rpm") else ""
    version = _version(module, form)
    facts = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "package_format": form,
        "package_version": version,
        "is_in_repository": bool(version) and _is_in_repository(module, form, version),
        "previous_version": _text(cache / "previous-version"),
        "cached_packages": sorted(path.name for path in cache.glob("packages/nvdra[_-]*")),
        "is_systemd": Path("/run/systemd/system").is_dir(),
        "units": {name: _unit(module, name) for name in module.params["units"]},
        "driver_version": _driver(proc),
        "imex_channels": _channels(proc),
        "missing_imex": [
            name for name in module.params["imex_programs"] if not Path(name).exists()
        ],
        "kubelet_version": cluster_programs.kubelet_version(module.run_command),
        "runtimes": cluster_programs.runtimes(module.run_command),
        "address": module.params["address"] or cluster_programs.node_address(),
        "rpm_keys": _rpm_keys(module) if form == "rpm" else [],
        "has_nvidia_ctk": bool(shutil.which("nvidia-ctk")),
        "has_kubelet": kubelet.is_dir(),
        "device_plugin_sockets": _device_plugins(kubelet),
        "foreign_sockets": _foreign(kubelet),
        "claims": len(list(state.glob("*/claims/*.json"))),
        "token": _token(_text(TOKEN)),
    }
    module.exit_json(changed=False, ansible_facts={"nvdra_node": facts})


def _version(module: AnsibleModule, form: str) -> str:
    """Version of the installed package; empty when it is not, or not wholly, installed."""
    if form == "deb":
        argv = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", "nvdra"]
        code, out, _ = module.run_command(argv)
        state, _, version = out.partition(" ")
        return version if code == 0 and state in ("installed", "half-configured") else ""
    if form == "rpm":
        code, out, _ = module.run_command(["rpm", "-q", "--qf", "%{VERSION}", "nvdra"])
        return out if code == 0 else ""
    return ""


def _is_in_repository(module: AnsibleModule, form: str, version: str) -> bool:
    """Whether the package manager could install the version that is installed again."""
    if form == "deb":
        _, out, _ = module.run_command(["apt-cache", "madison", "nvdra"])
        return any(line.split("|")[1:2] == [f" {version} "] for line in out.splitlines())
    _, out, _ = module.run_command(["dnf", "-q", "repoquery", "nvdra"])
    return any(f":{version}-" in line for line in out.splitlines())


def _rpm_keys(module: AnsibleModule) -> list[str]:
    """The keys whose signatures rpm takes, by the last eight digits of their ids, or more."""
    code, out, _ = module.run_command(["rpm", "-q", "gpg-pubkey", "--qf", "%{VERSION}\n"])
    return out.split() if code == 0 else []


def _unit(module: AnsibleModule, name: str) -> dict[str, str]:
    wanted = ["LoadState", "ActiveState", "UnitFileState", "MainPID", "ActiveEnterTimestamp"]
    code, out, _ = module.run_command(["systemctl", "show", "-p", ",".join(wanted), name])
    lines = out.splitlines() if code == 0 else []
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def _driver(proc: Path) -> str:
    """Version of the NVIDIA driver that is loaded; empty when none is."""
    first = _text(proc / "driver/nvidia/version").partition("\n")[0]
    return next((w for w in first.split() if w[:1].isdigit() and w.count(".") >= 1), "")


def _channels(proc: Path) -> int | None:
    """How many IMEX channels the NVIDIA driver has; None where it does not say."""
    for line in _text(proc / "driver/nvidia/params").splitlines():
        key, _, value = line.partition(":")
        if key == "ImexChannelCount" and value.strip().isdigit():
            return int(value)
    return None


def _device_plugins(kubelet: Path) -> list[str]:
    return sorted(path.name for path in (kubelet / "device-plugins").glob("nvidia*.sock"))


def _foreign(kubelet: Path) -> list[str]:
    """Directories of our drivers in which another program serves: ours leaves its lock beside the socket."""
    found = []
    for driver in ("gpu.nvidia.com", "compute-domain.nvidia.com"):
        place = kubelet / "plugins" / driver
        socket = place / "dra.sock"
        if _is_socket(socket) and not (place / "nvdra.lock").exists() and _is_listened(socket):
            found.append(driver)
    return found


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False


def _is_listened(path: Path) -> bool:
    return any(line.endswith(f" {path}") for line in _text(Path("/proc/net/unix")).splitlines())


def _token(token: str) -> dict[str, Any]:
    """What the token of our own credential says of itself; empty when there is none that says it."""
    try:
        payload = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        claims = payload["kubernetes.io"]
        return {
            "account": f"{claims['namespace']}/{claims['serviceaccount']['name']}",
            "node_uid": claims["node"]["uid"],
            "issued_at_s": int(payload["iat"]),
            "expires_at_s": int(payload["exp"]),
        }
    except (binascii.Error, ValueError, LookupError, TypeError):
        return {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


if __name__ == "__main__":
    main()

"""What the playbooks decide, as pure functions: who is unfit, in which order and how many at a time, which package.

In: facts of ``nvdra.node.node_facts`` and the role's variables. Out: plain data. Called by the tasks of role ``nvdra``.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.nvdra.node.plugins.module_utils import rpm_signature

MIN_PYTHON = (3, 10)
MAX_PYTHON = (3, 14)
GPU_DRIVER, DOMAIN_DRIVER = "gpu.nvidia.com", "compute-domain.nvidia.com"
GPU_UNIT = "nvdra-gpu-plugin.service"
DEB_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

_DEB = re.compile(r"nvdra_(?P<version>[^_/]+)_(?P<arch>[^_/]+)\.deb")
_RPM = re.compile(r"nvdra-(?P<version>[^-/]+)-[^-/]+\.(?P<arch>[^./]+)\.rpm")

Facts = Mapping[str, Any]


class RolloutError(ValueError):
    """The variables and the packages do not fit together; the message says what to change."""


def problems(facts: Facts, settings: Mapping[str, Any]) -> list[str]:
    """Why nothing should be changed on a host; empty when all is well.

    ``settings``: ``device_plugin`` and ``foreign_driver`` (``refuse`` or ``allow``), ``require_installed``,
    ``require_driver``, ``drivers`` (of the services that run), ``imex_mode``, ``vendor_imex`` (``keep``, ``disable`` or
    ``enable``) and ``vendor_imex_unit``.
    """
    found = []
    if not settings["drivers"]:
        found.append("nvdra_gpus and nvdra_compute_domains are both false: no service would run")
    if not facts["is_systemd"]:
        found.append("systemd does not run here")
    if not facts["package_format"]:
        found.append("neither dpkg nor rpm is here")
    version = tuple(int(part) for part in facts["python"].split(".")[:2])
    if facts["package_format"] == "deb" and not MIN_PYTHON <= version <= MAX_PYTHON:
        found.append(f"python3 is {facts['python']}; 3.10 to 3.14 is needed")
    if not facts["has_kubelet"]:
        found.append("no kubelet: join the host to the cluster first")
    if settings["require_driver"] and not facts["driver_version"]:
        found.append("the NVIDIA driver is not loaded; nvdra_require_driver=false goes on without")
    if settings["require_installed"] and not facts["package_version"]:
        found.append("nvdra is not installed; the playbook site installs it")
    return found + _rivals(facts, settings) + _imex(facts, settings)


def _rivals(facts: Facts, settings: Mapping[str, Any]) -> list[str]:
    found = []
    if facts["device_plugin_sockets"] and settings["device_plugin"] == "refuse":
        found += _device_plugin(facts, has_gpus=GPU_DRIVER in settings["drivers"])
    foreign = [name for name in facts["foreign_sockets"] if name in settings["drivers"]]
    if foreign and settings["foreign_driver"] == "refuse":
        names = ", ".join(foreign)
        found.append(
            f"another program serves {names}; remove it, or set nvdra_foreign_driver=allow to take over from it"
        )
    return found


def _device_plugin(facts: Facts, *, has_gpus: bool) -> list[str]:
    """A GPU is given to pods by the device plugin or by nvdra; with ComputeDomains alone both may be on a host."""
    names = ", ".join(facts["device_plugin_sockets"])
    if has_gpus:
        return [
            f"the NVIDIA device plugin serves here ({names}) and would hand out the same GPUs; remove it, or set "
            "nvdra_device_plugin=allow if it serves other GPUs than nvdra, or nvdra_gpus=false to roll out "
            "ComputeDomains alone"
        ]
    if facts["units"].get(GPU_UNIT, {}).get("ActiveState") == "active":
        return [
            f"{GPU_UNIT} runs here beside the NVIDIA device plugin ({names}) and hands out the same GPUs; with "
            f"nvdra_gpus=false drain the node and run: systemctl disable --now {GPU_UNIT}; nvdra-node withdraw"
        ]
    return []


def _imex(facts: Facts, settings: Mapping[str, Any]) -> list[str]:
    """A host has one IMEX daemon: it is ours, or that of NVIDIA's own unit."""
    if DOMAIN_DRIVER not in settings["drivers"]:
        return []
    name, wanted = settings["vendor_imex_unit"], settings["vendor_imex"]
    unit = facts["units"].get(name, {})
    runs = unit.get("ActiveState") == "active" or unit.get("UnitFileState") == "enabled"
    if settings["imex_mode"] == "hostManaged":
        if wanted == "disable":
            return [f"imexMode is hostManaged, and nvdra_vendor_imex=disable would stop {name}"]
        if not runs and wanted != "enable":
            return [
                f"imexMode is hostManaged, and {name} does not run; nvdra_vendor_imex=enable starts it"
            ]
    elif runs and wanted != "disable":
        return [
            f"{name} runs here or is enabled, and a host has one IMEX session: nvdra_vendor_imex=disable stops and"
            " masks it; or set imexMode in nvdra_config to hostManaged"
        ]
    return []


def fit(hosts: Sequence[str], hostvars: Mapping[str, Facts]) -> list[str]:
    """Hosts at which the preflight found nothing wrong; one that it did not come to is none of them."""
    return [host for host in hosts if hostvars[host].get("nvdra_problems") == []]


def rollout_order(hosts: Sequence[str], racks: Mapping[str, str]) -> list[str]:
    """Hosts rack after rack, each in the order of the inventory; a host without a rack is in one named ""."""
    order = list(dict.fromkeys(racks.get(host, "") for host in hosts))
    return sorted(hosts, key=lambda host: order.index(racks.get(host, "")))


def batches(
    hosts: Sequence[str], racks: Mapping[str, str], canaries: int = 1, size: int = 6
) -> list[int]:
    """How many of the ordered hosts to change at a time: canaries first, then parts of one rack and never of two."""
    sizes: list[int] = []
    last = ""
    for number, host in enumerate(hosts):
        rack = racks.get(host, "")
        is_full = number > canaries and sizes[-1] >= size
        if number in (0, canaries) or rack != last or is_full:
            sizes.append(0)
        sizes[-1] += 1
        last = rack
    return sizes


def racks_of(groups: Mapping[str, Sequence[str]], pattern: str) -> dict[str, str]:
    """The rack of each host: the first group whose whole name matches a regular expression."""
    found: dict[str, str] = {}
    for name in groups:
        if re.fullmatch(pattern, name):
            for host in groups[name]:
                found.setdefault(host, name)
    return found


def same_rack(hosts: Sequence[str], host: str, racks: Mapping[str, str]) -> list[str]:
    """Those of ``hosts`` that are in the rack of one of them, itself included."""
    return [other for other in hosts if racks.get(other, "") == racks.get(host, "")]


def addresses(hosts: Sequence[str], hostvars: Mapping[str, Facts], but: str) -> dict[str, str]:
    """Name -> address of hosts whose address is known, but for one of them."""
    known = {host: hostvars[host].get("nvdra_node", {}).get("address", "") for host in hosts}
    return {host: address for host, address in known.items() if address and host != but}


def with_active(hosts: Sequence[str], hostvars: Mapping[str, Facts], unit: str) -> list[str]:
    """Those of ``hosts`` on which a unit runs."""

    def state(host: str) -> Any:
        units = hostvars[host].get("nvdra_node", {}).get("units", {})
        return units.get(unit, {}).get("ActiveState")

    return [host for host in hosts if state(host) == "active"]


def package(facts: Facts, files: Sequence[str], version: str = "") -> dict[str, str]:
    """Which package a host shall have.

    ``files``: package files of the control machine. ``version``: the wanted one; empty: that of the only file that
    fits, or else what is installed. Returns ``version``, ``name`` (of a file in the host's cache), ``copy_from`` (path
    on the control machine, or empty), ``repository`` (what to ask the package manager for when there is no file).
    """
    fitting = {_parse(path, facts): path for path in files if _parse(path, facts)}
    cached = {_parse(name, facts): name for name in facts["cached_packages"] if _parse(name, facts)}
    if not version:
        if len(fitting) > 1:
            raise RolloutError(
                f"packages of several versions ({', '.join(sorted(map(str, fitting)))}): set nvdra_version"
            )
        version = next(iter(fitting), None) or facts["package_version"]
    if not version:
        wanted = f"{facts['package_format']} for {facts['machine']}"
        raise RolloutError(f"no package: no {wanted} in nvdra_package_dir; or set nvdra_version")
    path = fitting.get(version, "")
    name = posixpath.basename(path) or cached.get(version, "")
    joint = "=" if facts["package_format"] == "deb" else "-"
    return {
        "version": version,
        "name": name,
        "copy_from": path,
        "repository": "" if name else f"nvdra{joint}{version}",
    }


def way_back(facts: Facts, files: Sequence[str]) -> dict[str, str]:
    """The package that is installed on a host, in the form of ``package``: what a failed upgrade installs again."""
    return package(facts, files, facts["package_version"])


def package_problems(
    facts: Facts, files: Sequence[str], version: str, settings: Mapping[str, Any]
) -> list[str]:
    """Why the wanted package could not be installed on a host, or could not be taken back; empty when all is well.

    ``settings``: ``check_signature``, and ``signing_key``, the public key that the role imports, if any.
    """
    try:
        wanted = package(facts, files, version)
    except RolloutError as error:
        return [str(error)]
    if wanted["version"] == facts["package_version"]:
        return []
    found = _no_way_back(facts, files, wanted["version"])
    if settings["check_signature"] and facts["package_format"] == "rpm" and wanted["copy_from"]:
        found += _signature(facts, wanted["copy_from"], has_key=bool(settings["signing_key"]))
    return found


def _no_way_back(facts: Facts, files: Sequence[str], wanted: str) -> list[str]:
    """A host on which nvdra was installed by hand keeps no file of it, and its repositories may not have it."""
    installed, form = facts["package_version"], facts["package_format"]
    if not installed or facts["is_in_repository"] or not way_back(facts, files)["repository"]:
        return []
    return [
        f"nvdra {installed} is installed, and no {form} of it is at hand to go back to if {wanted} fails: "
        f"put it into nvdra_package_dir and set nvdra_version={wanted}"
    ]


def _signature(facts: Facts, path: str, *, has_key: bool) -> list[str]:
    """Whether dnf would refuse an rpm for its signature."""
    name, signer = posixpath.basename(path), rpm_signature.signer(path)
    if not signer:
        return [
            f"{name} is not signed, and nvdra_check_signature is true: make the packages with a key "
            "(NVDRA_SIGN_KEY), or set nvdra_check_signature=false"
        ]
    if has_key or any(signer.endswith(key.lower()[-8:]) for key in facts["rpm_keys"]):
        return []
    return [
        f"{name} is signed by key {signer}, which rpm does not know here: set nvdra_signing_key to the file "
        "with its public key, or run rpm --import"
    ]


def _parse(path: str, facts: Facts) -> str | None:
    """The version of a package file that fits a host; None for any other."""
    is_deb = facts["package_format"] == "deb"
    found = (_DEB if is_deb else _RPM).fullmatch(posixpath.basename(path))
    machine = facts["machine"]
    wanted = DEB_ARCHITECTURES.get(machine, machine) if is_deb else machine
    return found["version"] if found and found["arch"] == wanted else None


def token_is_wanting(facts: Facts, account: str, node_uid: str, now_s: float) -> bool:
    """Whether a node needs a new token: it has none, one of another subject, or one that it does not renew.

    ``facts``: those of the token that is there. A node begins to renew after a quarter of the life; one that has let
    half of it pass could not.
    """
    if not facts or (facts["account"], facts["node_uid"]) != (account, node_uid):
        return True
    half_s = (facts["issued_at_s"] + facts["expires_at_s"]) / 2
    return now_s >= half_s


def stale_backups(paths: Sequence[str]) -> list[str]:
    """Copies that earlier runs left beside a file, but for the newest of its settings; none of a credential stays.

    ``paths``: oldest first.
    """
    settings = [path for path in paths if posixpath.basename(path).startswith("config.yaml.")]
    return [path for path in paths if path not in settings[-1:]]


class FilterModule:
    """The filters under their names."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name -> function."""
        return {
            "addresses": addresses,
            "batches": batches,
            "fit": fit,
            "package": package,
            "package_problems": package_problems,
            "problems": problems,
            "racks_of": racks_of,
            "rollout_order": rollout_order,
            "same_rack": same_rack,
            "stale_backups": stale_backups,
            "token_is_wanting": token_is_wanting,
            "way_back": way_back,
            "with_active": with_active,
        }

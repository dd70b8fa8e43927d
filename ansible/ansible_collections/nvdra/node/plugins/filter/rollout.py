"""What the playbooks decide, as pure functions: who is unfit, in which order and how many at a time, which package.

In: facts of ``nvdra.node.node_facts`` and the role's variables. Out: plain data. Called by the tasks of role ``nvdra``.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MIN_PYTHON = (3, 10)
MAX_PYTHON = (3, 14)
DEB_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

_DEB = re.compile(r"nvdra_(?P<version>[^_/]+)_(?P<arch>[^_/]+)\.deb")
_RPM = re.compile(r"nvdra-(?P<version>[^-/]+)-[^-/]+\.(?P<arch>[^./]+)\.rpm")

Facts = Mapping[str, Any]


class RolloutError(ValueError):
    """The variables and the packages do not fit together; the message says what to change."""


def problems(facts: Facts, settings: Mapping[str, Any]) -> list[str]:
    """Why nothing should be changed on a host; empty when all is well.

    ``settings``: ``device_plugin`` and ``foreign_driver`` (``refuse`` or ``allow``), ``require_installed``,
    ``require_driver``, ``compute_domains``, ``imex_mode``, ``vendor_imex`` (``keep``, ``disable`` or ``enable``) and
    ``vendor_imex_unit``.
    """
    found = []
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
        names = ", ".join(facts["device_plugin_sockets"])
        found.append(
            f"the NVIDIA device plugin serves here ({names}) and would hand out the same GPUs; remove it, or set "
            "nvdra_device_plugin=allow if it serves other GPUs than nvdra"
        )
    if facts["foreign_sockets"] and settings["foreign_driver"] == "refuse":
        names = ", ".join(facts["foreign_sockets"])
        found.append(
            f"another program serves {names}; remove it, or set nvdra_foreign_driver=allow to take over from it"
        )
    return found


def _imex(facts: Facts, settings: Mapping[str, Any]) -> list[str]:
    """A host has one IMEX daemon: it is ours, or that of NVIDIA's own unit."""
    if not settings["compute_domains"]:
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


def _parse(path: str, facts: Facts) -> str | None:
    """The version of a package file that fits a host; None for any other."""
    is_deb = facts["package_format"] == "deb"
    found = (_DEB if is_deb else _RPM).fullmatch(posixpath.basename(path))
    machine = facts["machine"]
    wanted = DEB_ARCHITECTURES.get(machine, machine) if is_deb else machine
    return found["version"] if found and found["arch"] == wanted else None


def token_is_wanting(facts: Facts, account: str, node_uid: str, now_s: float) -> bool:
    """Whether a node must be brought a token: it has none, one of somebody else, or one that it does not renew.

    ``facts``: those of the token that is there. A node begins to renew after a quarter of the life; one that has let
    half of it pass could not.
    """
    if not facts or (facts["account"], facts["node_uid"]) != (account, node_uid):
        return True
    half_s = (facts["issued_at_s"] + facts["expires_at_s"]) / 2
    return now_s >= half_s


class FilterModule:
    """The filters under their names."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name -> function."""
        return {
            "batches": batches,
            "fit": fit,
            "package": package,
            "problems": problems,
            "racks_of": racks_of,
            "rollout_order": rollout_order,
            "token_is_wanting": token_is_wanting,
        }

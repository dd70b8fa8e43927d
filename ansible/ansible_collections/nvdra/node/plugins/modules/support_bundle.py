#!/usr/bin/python
"""Collects on a host what is needed to find a fault of nvdra from afar, into one archive: playbook support_bundle.

Only what the list below names goes in. Credentials are not on it; the kubeconfig's path is, its content is not.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: support_bundle
short_description: Collect what is needed to find a fault of nvdra
description:
  - Writes a tar archive with the output of commands and with files of nvdra. No credential is among them.
author: nvdra maintainers (@nvdra)
options:
  path:
    description: The archive to write.
    type: path
    required: true
  since:
    description: How old the oldest line of a journal may be, as journalctl understands it.
    type: str
    default: -24h
"""

EXAMPLES = r"""
- name: Collect
  nvdra.node.support_bundle:
    path: /var/tmp/nvdra.tar.gz
"""

RETURN = r"""
entries:
  description: Names in the archive.
  returned: success
  type: list
"""

COMMANDS = {
    "units.txt": [
        "systemctl",
        "status",
        "--no-pager",
        "-l",
        "nvdra*",
        "nvidia*",
        "kubelet",
        "containerd",
    ],
    "properties.txt": ["systemctl", "show", "nvdra-gpu-plugin.service"],
    "settings.txt": ["nvdra-node", "check-config"],
    "kernel.txt": ["uname", "-a"],
    "systemd.txt": ["systemctl", "--version"],
    "gpus.txt": ["nvidia-smi", "-q"],
    "dpkg.txt": ["dpkg-query", "-W", "nvdra", "nvidia*", "containerd*", "kubelet"],
    "rpm.txt": ["rpm", "-qa", "nvdra", "nvidia*", "containerd*", "kubelet"],
    "dmesg.txt": ["journalctl", "-k", "--no-pager", "-g", "NVRM|nvidia|Xid"],
}
JOURNALS = ("nvdra*", "nvidia*", "kubelet", "containerd")
FILES = (
    "/etc/nvdra/config.yaml",
    "/etc/os-release",
    "/proc/devices",
    "/proc/driver/nvidia/version",
    "/run/cdi/*",
    "/var/lib/nvdra/*/claims/*",
    "/var/lib/nvdra/*/quarantine/*",
)
COMMAND_S = 60


def main() -> None:
    """Collect."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "since": {"type": "str", "default": "-24h"},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=False, entries=sorted(COMMANDS))
    entries = {f"commands/{name}": _output(module, argv) for name, argv in COMMANDS.items()}
    for unit in JOURNALS:
        argv = [
            "journalctl",
            "--no-pager",
            "-o",
            "short-iso",
            "--since",
            module.params["since"],
            "-u",
            unit,
        ]
        entries[f"journal/{unit.rstrip('*')}.txt"] = _output(module, argv)
    for pattern in FILES:
        for path in sorted(Path("/").glob(pattern.lstrip("/"))):
            entries[f"files{path}"] = _content(path)
    with tarfile.open(module.params["path"], "w:gz") as archive:
        for name, content in entries.items():
            entry = tarfile.TarInfo(f"nvdra-support/{name}")
            entry.size, entry.mode = len(content), 0o600
            archive.addfile(entry, io.BytesIO(content))
    module.exit_json(changed=False, entries=sorted(entries))


def _output(module: AnsibleModule, argv: list[str]) -> bytes:
    """What a command says; when it cannot be run, why."""
    if not module.get_bin_path(argv[0]):
        return f"{argv[0]} is not here\n".encode()
    code, out, err = module.run_command(["timeout", str(COMMAND_S), *argv])
    return f"$ {' '.join(argv)}\n{out}{err}exit status {code}\n".encode()


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        return f"cannot be read: {error}\n".encode()


if __name__ == "__main__":
    main()

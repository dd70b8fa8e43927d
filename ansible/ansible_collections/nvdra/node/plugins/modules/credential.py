#!/usr/bin/python
"""Puts a node's own credential in place: token, certificate of the cluster, kubeconfig; or takes it away again.

Each file is replaced atomically and readable by root alone. Services read a new token or certificate while they run;
a new kubeconfig needs a restart, which the result says. The token comes in a file that the action plugin of the same
name has written, as Ansible may write a module's arguments to files. Standard library only.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: credential
short_description: Put a node's own credential in place, or take it away
description:
  - Writes the token that a node asks the API server with, the certificate of the cluster and a kubeconfig that names
    both. With O(state=absent) removes the kubeconfig, if it is one that this module has written.
author: nvdra maintainers (@nvdra)
options:
  state:
    description: Whether the credential shall be there.
    type: str
    choices: [present, absent]
    default: present
  token:
    description: >-
      A token of a ServiceAccount that is bound to the Node; empty to keep the one that is there. It goes to the host
      over standard input, whether pipelining is on or not, and is in no argument and no temporary file there.
    type: str
    default: ""
  token_file:
    description: Where the token lies on the host; set by the action plugin. The file is removed.
    type: path
  node:
    description: Name of the Node object; a token of another one is refused.
    type: str
    default: ""
  server:
    description: URL of the API server.
    type: str
    default: ""
  ca:
    description: Certificate of the cluster's CA, PEM.
    type: str
    default: ""
  directory:
    description: Directory for token and certificate; the node's renewal writes there.
    type: path
    default: /var/lib/nvdra/credential
  kubeconfig:
    description: Where the services read the kubeconfig.
    type: path
    default: /etc/nvdra/kubeconfig
"""

EXAMPLES = r"""
- name: Put the credential in place
  nvdra.node.credential:
    token: "{{ token }}"
    node: rack-a-01
    server: https://api.example:6443
    ca: "{{ lookup('ansible.builtin.file', 'ca.crt') }}"
  no_log: true
"""

RETURN = r"""
needs_restart:
  description: Whether the services must restart to use it.
  returned: always
  type: bool
backup_file:
  description: Copy of the kubeconfig that was there before.
  returned: when there was one and it was changed
  type: str
"""

MODE = 0o600
DIRECTORY_MODE = 0o700


class RefusedError(Exception):
    """The message says what is wrong with what was given."""


def main() -> None:
    """Compare, and change what differs."""
    text = {"type": "str", "default": ""}
    arguments: dict[str, Any] = {
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "token_file": {"type": "path", "no_log": False},
        "node": text,
        "server": text,
        "ca": text,
        "directory": {"type": "path", "default": "/var/lib/nvdra/credential"},
        "kubeconfig": {"type": "path", "default": "/etc/nvdra/kubeconfig"},
    }
    module = AnsibleModule(argument_spec=arguments, supports_check_mode=True)
    try:
        result = (_absent if module.params["state"] == "absent" else _present)(module)
    except RefusedError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}")
    module.exit_json(**result)


def _present(module: AnsibleModule) -> dict[str, Any]:
    given = module.params
    directory, kubeconfig = Path(given["directory"]), Path(given["kubeconfig"])
    token, wanted = _take(given["token_file"]), _document(given)
    if token:
        _check(token, given["node"])
    elif not (directory / "token").is_file() and not module.check_mode:
        raise RefusedError(f"no token was given and none is in {directory}")
    changes = {directory / "ca.crt": given["ca"].strip() + "\n"}
    if token:
        changes[directory / "token"] = token + "\n"
    changes = {path: content for path, content in changes.items() if _read(path) != content}
    before = _read(kubeconfig)
    is_new = before != wanted
    result: dict[str, Any] = {"changed": bool(changes) or is_new, "needs_restart": is_new}
    if module.check_mode:
        return result
    directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    directory.chmod(DIRECTORY_MODE)
    for path, content in changes.items():
        _replace(path, content)
    if is_new:
        if before:
            result["backup_file"] = module.backup_local(str(kubeconfig))
        kubeconfig.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _replace(kubeconfig, wanted)
    return result


def _absent(module: AnsibleModule) -> dict[str, Any]:
    """A kubeconfig that an operator has put there himself stays. The token stays too, for the way back."""
    directory, kubeconfig = Path(module.params["directory"]), Path(module.params["kubeconfig"])
    is_ours = f'"tokenFile": "{directory}/token"' in _read(kubeconfig)
    result: dict[str, Any] = {"changed": is_ours, "needs_restart": is_ours}
    if is_ours and not module.check_mode:
        result["backup_file"] = module.backup_local(str(kubeconfig))
        kubeconfig.unlink()
    return result


def _document(given: dict[str, Any]) -> str:
    """The kubeconfig, as JSON: the services read it without a YAML library."""
    directory = given["directory"]
    cluster = {"server": given["server"], "certificate-authority": f"{directory}/ca.crt"}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "node",
        "clusters": [{"name": "cluster", "cluster": cluster}],
        "users": [{"name": "node", "user": {"tokenFile": f"{directory}/token"}}],
        "contexts": [{"name": "node", "context": {"cluster": "cluster", "user": "node"}}],
    }
    return json.dumps(document, indent=2) + "\n"


def _check(token: str, node: str) -> None:
    """Raise RefusedError for a token that is not bound to the node; nothing of it is repeated."""
    try:
        payload = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        bound = payload["kubernetes.io"]["node"]["name"]
    except (binascii.Error, ValueError, LookupError, TypeError):
        raise RefusedError("what was given is no token bound to a Node") from None
    if bound != node:
        raise RefusedError(f"the token is bound to Node {bound}, and not to {node}")


def _take(path: str | None) -> str:
    """The token that was brought; whatever comes of it, its file does not stay."""
    if not path:
        return ""
    token = _read(Path(path)).strip()
    Path(path).unlink()
    return token


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _replace(path: Path, content: str) -> None:
    """Replace atomically: a reader sees the old file or the new one; only root can read it."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, MODE)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink()
        raise


if __name__ == "__main__":
    main()

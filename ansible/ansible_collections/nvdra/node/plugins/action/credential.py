"""The part of the module ``credential`` that runs on the control machine: brings the token to the host by itself.

Ansible writes a module's arguments into a file on the host unless pipelining is on, which is a setting of the operator.
So the token is no argument of the module: it goes over the standard input of a shell into a file that root alone may
read, in the directory where it belongs, and the module is given the name of that file.
"""

from __future__ import annotations

import shlex
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

INCOMING = ".token.incoming"


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core is not among the project's own tools
    """See the module."""

    _requires_connection = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Bring the token, if one is given, then run the module."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        token = str(arguments.pop("token", "") or "").strip()
        if token and not self._task.check_mode:
            directory = str(arguments.get("directory") or "/var/lib/nvdra/credential")
            arguments["token_file"] = self._bring(token, directory)
        result.update(
            self._execute_module(
                "nvdra.node.credential", module_args=arguments, task_vars=task_vars
            )
        )
        return result

    def _bring(self, token: str, directory: str) -> str:
        """Write the token on the host; the name of the file."""
        path = f"{directory}/{INCOMING}"
        script = (
            f"umask 077 && mkdir -p {shlex.quote(directory)} && chmod 0700 {shlex.quote(directory)} && "
            f"rm -f {shlex.quote(path)} && cat > {shlex.quote(path)}"
        )
        done = self._low_level_execute_command(script, in_data=token.encode() + b"\n")
        if done["rc"]:
            raise AnsibleActionFail(f"{path}: cannot be written: {done['stderr'].strip()}")
        return path

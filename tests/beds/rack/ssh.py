"""Replaces ``ssh`` between Ansible and the hosts of a rack: enters the host's namespaces and runs the command.

Called by Ansible as ``ssh HOME [ssh's options] HOST COMMAND``, where HOME is the directory of the rack's cluster. A host
that is off answers as ssh does, with 255. Standard library only, and little of it: it is started for every task.
"""

import json
import os
import sys

_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}


def main() -> None:
    """Become the command."""
    home, host, command = sys.argv[1], sys.argv[-2], sys.argv[-1]
    pid = init_of(home, host)
    if not pid:
        print(f"ssh: connect to host {host} port 22: No route to host", file=sys.stderr)
        sys.exit(255)
    argv = [
        "nsenter",
        "-t",
        pid,
        "-m",
        "-u",
        "-i",
        "-n",
        "-p",
        "-C",
        "--",
        "/bin/sh",
        "-c",
        command,
    ]
    os.execvpe(argv[0], argv, {**os.environ, **_ENVIRONMENT})


def init_of(home: str, host: str) -> str:
    """Pid of the host's systemd; empty when the host is off."""
    try:
        with open(f"{home}/pids/{host}.holder.json") as file:
            holder = json.load(file)["pid"]
        with open(f"/proc/{holder}/task/{holder}/children") as file:
            return next(iter(file.read().split()), "")
    except OSError:
        return ""


if __name__ == "__main__":
    main()

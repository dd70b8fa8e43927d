#!/usr/bin/python
"""Tries whether the hosts of a rack reach each other on the ports of IMEX, before anything is changed.

Every host listens for a while, then every host connects to all others, then all stop listening. A host that may have an
IMEX daemon does not listen, so as not to take its port: that it refuses a connection says enough. Standard library
only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: peers
short_description: Try whether hosts reach each other on ports
description:
  - With O(state=listening) leaves a process that accepts connections on O(ports) until O(state=stopped), or for
    O(timeout_s) seconds. With O(state=reached) connects to O(peers) and returns those that do not answer.
author: nvdra maintainers (@nvdra)
options:
  state:
    description: What to do.
    type: str
    choices: [listening, reached, stopped]
    required: true
  ports:
    description: Ports to listen on, or to connect to.
    type: list
    elements: int
    default: []
  peers:
    description: Name -> address of the hosts to connect to.
    type: dict
    default: {}
  serving:
    description: Those of O(peers) that do not listen for this; a connection that they refuse has reached them.
    type: list
    elements: str
    default: []
  timeout_s:
    description: How long to listen, or to wait for an answer, in seconds.
    type: int
    default: 5
"""

EXAMPLES = r"""
- name: Connect to the other hosts of the rack
  nvdra.node.peers:
    state: reached
    ports: [24000, 28095]
    peers: {rack-a-02: 10.0.0.2}
"""

RETURN = r"""
silent:
  description: Peers that did not answer, each with its port and why.
  returned: when O(state=reached)
  type: list
"""

RECORD = Path("/run/nvdra-peers.pid")
"""Locked by the process that listens, so that its pid is not taken for another's."""
AT_ONCE = 16


def main() -> None:
    """Do one of the three steps."""
    arguments: dict[str, Any] = {
        "state": {"type": "str", "choices": ["listening", "reached", "stopped"], "required": True},
        "ports": {"type": "list", "elements": "int", "default": []},
        "peers": {"type": "dict", "default": {}},
        "serving": {"type": "list", "elements": "str", "default": []},
        "timeout_s": {"type": "int", "default": 5},
    }
    module = AnsibleModule(argument_spec=arguments, supports_check_mode=True)
    given = module.params
    result: dict[str, Any] = {"changed": False}
    if given["state"] == "reached":
        result["silent"] = silent(module)
    else:
        stop()
        if given["state"] == "listening":
            listen(given["ports"], given["timeout_s"])
    module.exit_json(**result)


def silent(module: AnsibleModule) -> list[str]:
    """Peers and ports that no connection can be made to."""
    peers, serving, timeout_s = (module.params[key] for key in ("peers", "serving", "timeout_s"))
    wanted = [
        (name, peers[name], port) for name in sorted(peers) for port in module.params["ports"]
    ]

    def why_not(peer: tuple[str, str, int]) -> str:
        name, address, port = peer
        try:
            socket.create_connection((address, port), timeout_s).close()
        except ConnectionRefusedError as error:
            return "" if name in serving else f"{name} ({address}) port {port}: {error.strerror}"
        except OSError as error:
            return f"{name} ({address}) port {port}: {error.strerror or error}"
        return ""

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [said for said in pool.map(why_not, wanted) if said]


def listen(ports: list[int], timeout_s: float) -> None:
    """Leave a process that accepts connections; returns when all its ports are open."""
    listeners = [found for port in ports if (found := _listener(port))]
    with RECORD.open("w") as record:
        fcntl.flock(record, fcntl.LOCK_EX)  # of the open file, which the child has, too
        child = os.fork()
        if child:
            record.write(str(child))
            return  # the module ends, and closes its own copies
        signal.signal(signal.SIGTERM, _end)
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(nothing, standard)
        with contextlib.suppress(SystemExit):
            _accept(listeners, time.monotonic() + timeout_s)
        # The ports are free before the lock is, which ``stop`` waits for.
        for listener in listeners:
            listener.close()
        RECORD.unlink()
        os._exit(0)


def _end(*_: object) -> None:
    raise SystemExit


def _listener(port: int) -> socket.socket | None:
    """A listening socket; None where something listens already."""
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    try:
        return socket.create_server(
            ("", port), family=family, dualstack_ipv6=family == socket.AF_INET6
        )
    except OSError:
        return None


def _accept(listeners: list[socket.socket], deadline_s: float) -> None:
    with selectors.DefaultSelector() as selector:
        for listener in listeners:
            selector.register(listener, selectors.EVENT_READ)
        while (left_s := deadline_s - time.monotonic()) > 0:
            for key, _ in selector.select(left_s):
                with contextlib.suppress(OSError):
                    key.fileobj.accept()[0].close()


def stop() -> None:
    """End the process that an earlier run left, if it is still there."""
    try:
        with RECORD.open("r") as record:
            try:
                fcntl.flock(record, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.kill(int(record.read()), signal.SIGTERM)
                fcntl.flock(record, fcntl.LOCK_EX)  # it has ended
            RECORD.unlink()  # by one that was killed
    except (FileNotFoundError, ProcessLookupError):
        return


if __name__ == "__main__":
    main()

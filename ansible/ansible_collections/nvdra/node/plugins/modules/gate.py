#!/usr/bin/python
"""The health gate between batches of a rollout: waits until a host's services work, and says what is wrong otherwise.

A service works when its unit is active and stays the same process for a while, both of its sockets answer, and what it
has itself published since it started is at least what is asked for. Changes nothing. Standard library only.
"""

from __future__ import annotations

import http.client
import re
import socket
import threading
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: gate
short_description: Wait until the services of nvdra on a host work
description:
  - Succeeds when each unit is active, is the same process for O(settle_s) seconds, answers on both of its sockets, says
    that it is healthy, and has published enough devices since it started. Fails with what is wrong when that takes too
    long.
author: nvdra maintainers (@nvdra)
options:
  services:
    description: Units, and the name of the driver that each serves.
    type: list
    elements: dict
    required: true
    options:
      unit:
        description: Name of the unit.
        type: str
        required: true
      driver:
        description: Name of the DRA driver; empty when it serves none to the kubelet.
        type: str
        default: ""
      endpoint:
        description: The service's address and port for metrics and health; without one it is not asked.
        type: str
        default: ""
      metrics_path:
        description: Path of the metrics there; empty when they are off, and then no devices are counted.
        type: str
        default: /metrics
      min_devices:
        description: So many devices of its driver must be published; asked at the endpoint.
        type: int
        default: 0
  registry_dir:
    description: The kubelet's plugin registry directory.
    type: path
    default: /var/lib/kubelet/plugins_registry
  plugins_dir:
    description: The kubelet's plugin data directory.
    type: path
    default: /var/lib/kubelet/plugins
  timeout_s:
    description: How long to wait, in seconds.
    type: int
    default: 120
  settle_s:
    description: How long the service must be the same process, in seconds.
    type: int
    default: 3
"""

EXAMPLES = r"""
- name: Wait until the service works
  nvdra.node.gate:
    services:
      - {unit: nvdra-gpu-plugin.service, driver: gpu.nvidia.com, endpoint: "127.0.0.1:9899", min_devices: 4}
"""

RETURN = r"""
devices:
  description: Devices that are published, by driver; empty without an endpoint.
  returned: success
  type: dict
waited_s:
  description: How long it took, in seconds.
  returned: success
  type: float
"""

PUBLISHED = re.compile(
    r'^nvidia_dra_published_devices\{driver="([^"]+)"\} ([0-9.e+]+)$', re.MULTILINE
)
INTERVAL_S = 1.0
ANSWER_S = 5.0
JOURNAL_LINES = "12"


class Gate:
    """One wait."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.registry = Path(module.params["registry_dir"])
        self.plugins = Path(module.params["plugins_dir"])
        self.devices: dict[str, int] = {}

    def observe(self) -> tuple[list[str], list[str]]:
        """Everything that is wrong now, and the main process of each service."""
        found, processes = [], []
        for service in self.module.params["services"]:
            state = self.show(service["unit"])
            processes.append(state.get("MainPID", ""))
            if state.get("ActiveState") != "active":
                found.append(
                    f"{service['unit']} is {state.get('ActiveState')} ({state.get('SubState')})"
                )
            else:
                found += self.silent_sockets(service["driver"]) or self.unwell(service)
        return found, processes

    def show(self, unit: str) -> dict[str, str]:
        """What systemd says of a unit."""
        names = "ActiveState,SubState,MainPID"
        _, out, _ = self.module.run_command(["systemctl", "show", "-p", names, unit])
        return {key: value for key, _, value in (line.partition("=") for line in out.splitlines())}

    def silent_sockets(self, driver: str) -> list[str]:
        """Sockets of a driver without a listener."""
        if not driver:
            return []
        paths = [
            self.registry / f"{driver}-reg.sock",
            self.plugins / driver / "dra.sock",
        ]
        return [f"{path}: {why}" for path in paths if (why := _why_silent(path))]

    def unwell(self, service: dict[str, Any]) -> list[str]:
        """What the process that runs now says is wrong, and whether it has itself published too few devices."""
        endpoint = service["endpoint"]
        if not endpoint:
            return []
        try:
            status, said = _get(endpoint, "/healthz")
            if status != http.client.OK:
                return [f"{service['unit']}, health at {endpoint}: {said.strip()}"]
            return self.too_few(service) if service["metrics_path"] else []
        except (OSError, http.client.HTTPException) as error:
            return [f"{service['unit']}, metrics at {endpoint}: {error}"]

    def too_few(self, service: dict[str, Any]) -> list[str]:
        """Whether the metrics tell of fewer devices than are wanted."""
        endpoint, path, driver = service["endpoint"], service["metrics_path"], service["driver"]
        status, said = _get(endpoint, path)
        if status != http.client.OK:
            return [f"{service['unit']}, metrics at {endpoint}{path}: HTTP status {status}"]
        self.devices.update(published(said))
        count, wanted = self.devices.get(driver, 0), service["min_devices"]
        if count >= wanted:
            return []
        return [f"{driver}: {count} devices published, expected at least {wanted}"]

    def journal(self) -> str:
        """The last that the services said."""
        units = [f"--unit={s['unit']}" for s in self.module.params["services"]]
        argv = ["journalctl", "--no-pager", "-o", "cat", "-n", JOURNAL_LINES, *units]
        return self.module.run_command(argv)[1]


def published(text: str) -> dict[str, int]:
    """Published devices by driver, from the text of metrics."""
    return {driver: int(float(count)) for driver, count in PUBLISHED.findall(text)}


def _why_silent(path: Path) -> str:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(ANSWER_S)
            probe.connect(str(path))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _get(endpoint: str, path: str) -> tuple[int, str]:
    """Status and text of an answer of the service."""
    host, _, port = endpoint.rpartition(":")
    host = host.strip("[]")
    if host in ("", "0.0.0.0", "::"):
        host = "127.0.0.1"
    connection = http.client.HTTPConnection(host, int(port), timeout=ANSWER_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")
    finally:
        connection.close()


def main() -> None:
    """Wait; fail with what is wrong when it takes too long."""
    service = {
        "unit": {"type": "str", "required": True},
        "driver": {"type": "str", "default": ""},
        "endpoint": {"type": "str", "default": ""},
        "metrics_path": {"type": "str", "default": "/metrics"},
        "min_devices": {"type": "int", "default": 0},
    }
    arguments: dict[str, Any] = {
        "services": {"type": "list", "elements": "dict", "required": True, "options": service},
        "registry_dir": {"type": "path", "default": "/var/lib/kubelet/plugins_registry"},
        "plugins_dir": {"type": "path", "default": "/var/lib/kubelet/plugins"},
        "timeout_s": {"type": "int", "default": 120},
        "settle_s": {"type": "int", "default": 3},
    }
    module = AnsibleModule(argument_spec=arguments, supports_check_mode=True)
    if module.check_mode:
        module.exit_json(changed=False, devices={}, waited_s=0.0)
    gate, pause = Gate(module), threading.Event()
    began_s = time.monotonic()
    well_since_s, processes = began_s, [""]
    while True:
        (problems, seen), now_s = gate.observe(), time.monotonic()
        if problems or seen != processes:
            well_since_s, processes = now_s, seen
        elif now_s - well_since_s >= module.params["settle_s"]:
            waited_s = round(now_s - began_s, 1)
            module.exit_json(changed=False, devices=gate.devices, waited_s=waited_s)
        if now_s - began_s > module.params["timeout_s"]:
            why = "; ".join(problems) or "it does not stay the same process"
            text = f"not well after {module.params['timeout_s']} s: {why}\n{gate.journal()}"
            module.fail_json(msg=text, problems=problems)
        pause.wait(INTERVAL_S)


if __name__ == "__main__":
    main()

"""What one formation of a domain costs each node: programs that are started, requests to the API, processor time.

Out: the figures are printed (``pytest -s``), and counts that must not grow are asserted.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.service.computedomain.rack import Rack, Tray, wait_for

pytestmark = [pytest.mark.sim, pytest.mark.timeout(300)]

TRAYS = 3
PROGRAMS = ("systemctl", "journalctl", "nvidia-imex-ctl")
SETTLE_S = 4.0
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Calls:
    """Notes each start of a program of a tray."""

    def __init__(self, tray: Tray) -> None:
        self.path = tray.home / "calls"
        self.path.touch()
        programs = tray.root.path / "usr/bin"
        for name in PROGRAMS:
            real = programs / f"{name}.real"
            (programs / name).rename(real)
            (programs / name).write_text(
                f'#!/bin/sh\necho "{name} $1" >> {self.path}\nexec {real} "$@"\n'
            )
            (programs / name).chmod(0o755)

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines()


def cpu_s(tray: Tray, service: str) -> float:
    """Processor time of a service itself, without the programs that it started."""
    words = Path(f"/proc/{tray.services[service].pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, words[11:13])) * TICK_S


def form(rack: Rack) -> None:
    """Claims of one domain on all trays, told to the nodes one by one; returns when all see each other."""
    for tray in rack.trays:
        rack.claim(f"c{tray.index}", tray, "domain-a")
    answers: list[object] = []

    def prepare(tray: Tray) -> None:
        answers.append(tray.prepare(f"c{tray.index}").errors)

    threads = [threading.Thread(target=prepare, args=(tray,)) for tray in rack.trays]
    for number, thread in enumerate(threads, start=1):
        thread.start()
        rack.domain("a", rack.trays[:number])
        time.sleep(0.3)
    for thread in threads:
        thread.join()
    assert answers == [{}] * len(rack.trays)


def test_a_formation_costs_a_node_few_programs_and_requests(make_rack):
    rack = make_rack(TRAYS)
    calls = [Calls(tray) for tray in rack.trays]
    for tray in rack.trays:
        tray.start()
        tray.register()
    wait_for(lambda: all(rack.devices(tray) for tray in rack.trays), "devices are offered")
    rack.heartbeat_s = 600
    rack.assign()
    wait_for(lambda: all(tray.status().get("cliqueID") for tray in rack.trays), "statuses")
    time.sleep(SETTLE_S)
    begun = [len(each.lines()) for each in calls]
    requests = len(rack.server.api.log.lines())
    services = ("imex-supervisor", "compute-domain")
    before = [[cpu_s(tray, service) for service in services] for tray in rack.trays]
    form(rack)
    time.sleep(SETTLE_S)
    for index, tray in enumerate(rack.trays):
        found = Counter(calls[index].lines()[begun[index] :])
        spent = [cpu_s(tray, s) - b for s, b in zip(services, before[index], strict=True)]
        print(tray.name, found.total(), dict(found), [f"{s * 1000:.0f} ms" for s in spent])
        assert found["systemctl show"] <= 3 and found["systemctl start"] == 1, found
        assert found["systemctl kill"] == 0, "a process that is held is signalled without a program"
    written = Counter(
        f"{one.verb} {one.resource}" for one in rack.server.api.log.lines()[requests:]
    )
    print(dict(written))
    # One when the domain is ready; what peers do goes with the next sign of life.
    assert written["patch fabricnodes/status"] <= 2 * TRAYS
    assert written["get resourceclaims"] == TRAYS

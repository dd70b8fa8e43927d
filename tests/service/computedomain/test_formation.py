"""Costs of one formation of a domain on each node: programs, API requests, processor time.

Prints the figures (``pytest -s``) and asserts the counts that must not grow.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.beds.services.tray_rack import Rack, Tray
from tests.lib.waits import wait_until

pytestmark = [pytest.mark.sim, pytest.mark.timeout(300)]

TRAYS = 3
PROGRAMS = ("systemctl", "journalctl", "nvidia-imex-ctl")
SETTLE_S = 4.0
BETWEEN_S = 0.3
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Calls:
    """Records each start of a program of a tray."""

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


class Bill:
    """Programs, requests and processor time since its creation."""

    SERVICES = ("imex-supervisor", "compute-domain")

    def __init__(self, rack: Rack, calls: list[Calls]) -> None:
        self._rack, self._calls = rack, calls
        self._begun = [len(each.lines()) for each in calls]
        self._requests = len(rack.server.api.log.lines())
        self._before_s = [[cpu_s(t, s) for s in self.SERVICES] for t in rack.trays]

    def programs(self, index: int) -> Counter[str]:
        return Counter(self._calls[index].lines()[self._begun[index] :])

    def requests(self) -> Counter[str]:
        lines = self._rack.server.api.log.lines()[self._requests :]
        return Counter(f"{one.verb} {one.resource}" for one in lines)

    def show(self, what: str) -> None:
        print(f"{what}: {dict(self.requests())}")
        for index, tray in enumerate(self._rack.trays):
            found = self.programs(index)
            spent = zip(self.SERVICES, self._before_s[index], strict=True)
            cpu = ", ".join(f"{s} {(cpu_s(tray, s) - b) * 1000:.0f} ms" for s, b in spent)
            print(f"  {tray.name}: {found.total()} programs {dict(found)}; {cpu}")


def form(rack: Rack, name: str) -> None:
    """Claims of one domain on all trays, assigned one by one; returns when all are prepared."""
    for tray in rack.trays:
        rack.claim(f"{name}{tray.index}", tray, f"domain-{name}")
    answers: list[object] = []

    def prepare(tray: Tray) -> None:
        answers.append(tray.prepare(f"{name}{tray.index}").errors)

    threads = [threading.Thread(target=prepare, args=(tray,)) for tray in rack.trays]
    for number, thread in enumerate(threads, start=1):
        thread.start()
        rack.domain(name, rack.trays[:number])
        time.sleep(BETWEEN_S)
    for thread in threads:
        thread.join()
    assert answers == [{}] * len(rack.trays)


def end(rack: Rack, name: str) -> None:
    """Release all claims and wait for the end of nvidia-imex."""
    for tray in rack.trays:
        tray.unprepare(f"{name}{tray.index}")
    wait_until("no nvidia-imex runs", lambda: not any(tray.imex()["pid"] for tray in rack.trays))


def test_formation_runs_few_programs_and_requests(make_rack):
    rack = make_rack(TRAYS)
    calls = [Calls(tray) for tray in rack.trays]
    rack.heartbeat_s = 600
    for tray in rack.trays:
        tray.start()
        tray.register()
    wait_until("devices are published", lambda: all(rack.devices(tray) for tray in rack.trays))
    rack.assign()
    wait_until("statuses", lambda: all(tray.status().get("cliqueID") for tray in rack.trays))
    for name in ("a", "b"):
        time.sleep(SETTLE_S)
        bill = Bill(rack, calls)
        form(rack, name)
        time.sleep(SETTLE_S)
        bill.show(f"formation {name}")
        for index in range(TRAYS):
            found = bill.programs(index)
            assert found["systemctl show"] <= 3 and found["systemctl start"] == 1, found
            assert found["systemctl kill"] == 0, "signals need no program"
        # One when the domain is ready; changes of peers are written with the next heartbeat.
        assert bill.requests()["patch fabricnodes/status"] <= 2 * TRAYS
        # One for each prepare; the sweep and a repeated prepare may add one.
        assert TRAYS <= bill.requests()["get resourceclaims"] <= 2 * TRAYS
        bill = Bill(rack, calls)
        end(rack, name)
        time.sleep(SETTLE_S)
        bill.show(f"end {name}")
        rack.domains.clear()
        rack.assign()

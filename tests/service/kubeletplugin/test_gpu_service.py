"""Rows of ``docs/parity.md`` that only show with the GPU plugin as a process."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.beds.services.gpu_service import a_gpu_service
from tests.fakes.apiserver.faults import Fault
from tests.lib.waits import until

pytestmark = [
    pytest.mark.sim,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        os.geteuid() != 0, reason="a GPU is prepared with its device node: run as root"
    ),
]


@pytest.mark.parametrize("trouble", ["nvml hangs", "no driver", "no API server"])
def test_unprepare_works_without_dependencies(directory: Path, trouble: str) -> None:
    """P-7. Sockets come before NVML, and an unprepare asks neither it nor the API server."""
    with a_gpu_service(directory) as service:
        service.start()
        until(service.is_published)
        claim = service.claim("c1")
        assert service.kubelet.prepare(claim).errors == {}
        service.stop()
        assert service.cdi_files() != []
        if trouble == "nvml hangs":
            service.root.fault("*", hang=True)
        elif trouble == "no driver":
            service.root.unload_driver()
        else:
            service.server.api.faults.add(Fault(action="hang", count=0))
        started_s = time.monotonic()
        service.start()
        assert service.kubelet.unprepare(claim).errors == {}
        assert time.monotonic() - started_s < 30
        assert service.cdi_files() == []


def test_api_requests_of_a_service_are_bounded(directory: Path) -> None:
    """P-31. Three at start, two for each claim (it is read, and its status written), none while nothing happens."""
    with a_gpu_service(directory) as service:
        log = service.server.api.log
        service.start()
        until(service.is_published)
        until(lambda: log.count("watch", "resourceslices"))
        asked = [(line.verb, line.resource) for line in log.lines()]
        assert sorted(asked) == [
            ("create", "resourceslices"),
            ("get", "nodes"),
            ("watch", "resourceslices"),
        ]
        log.clear()
        claims = [service.claim(f"c{number}", gpu=number % 2) for number in range(4)]
        for claim in claims:
            assert service.kubelet.prepare(claim).errors == {}
            until(lambda: log.count("patch", "resourceclaims/status"))
            assert service.kubelet.unprepare(claim).errors == {}
            asked = [(line.verb, line.resource) for line in log.lines()]
            assert asked == [("get", "resourceclaims"), ("patch", "resourceclaims/status")]
            log.clear()
        time.sleep(2.0)
        assert [(line.verb, line.resource) for line in log.lines()] == []

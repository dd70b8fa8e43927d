"""The services of a node without the unit broker."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request

import pytest

from tests.lib.waits import wait_until

pytestmark = [pytest.mark.sim, pytest.mark.timeout(300)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def health(port: int) -> str:
    """Answer of the supervisor's health endpoint."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=30) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return str(error.read().decode())
    except urllib.error.URLError as error:  # not there yet
        return str(error)


def test_claims_go_on_without_the_broker(rack):
    [tray] = rack.trays
    rack.claim("c1", tray, rack.domain("a"))
    assert tray.prepare("c1").errors == {}
    before = tray.imex()["InvocationID"]
    tray.kill_broker()
    assert tray.prepare("c1").errors == {}
    assert tray.unprepare("c1").errors == {}
    assert tray.imex()["InvocationID"] == before
    tray.start_broker()
    wait_until("nvidia-imex is stopped", lambda: tray.imex()["ActiveState"] == "inactive")


def test_missing_broker_is_in_claim_error_and_health(rack):
    [tray] = rack.trays
    port = free_port()
    tray.stop("imex-supervisor")
    tray.start("imex-supervisor", imexHttpEndpoint=f"127.0.0.1:{port}")
    rack.claim("c1", tray, rack.domain("a"))
    wait_until("the supervisor", (tray.imex_dir / "supervisor.sock").is_socket)
    wait_until("healthy", lambda: health(port).strip() == "ok")
    tray.kill_broker()
    assert "nvdra-unit-broker.socket" in health(port)
    tray.wait_for_error("c1", "nvdra-unit-broker.socket")
    tray.start_broker()
    assert tray.prepare("c1").errors == {}
    assert health(port).strip() == "ok"

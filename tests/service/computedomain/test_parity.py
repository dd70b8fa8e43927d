"""Rows of ``docs/parity.md`` that need all services of a node as processes."""

from __future__ import annotations

import socket
import time
import urllib.request
from pathlib import Path

import pytest

from nvdra_node.computedomain import driver
from tests.beds.services.tray_rack import DRIVER, Rack, Tray
from tests.fakes.apiserver.faults import Fault
from tests.lib.waits import wait_until

pytestmark = [pytest.mark.sim, pytest.mark.timeout(300)]

LISTENING = "0A"
"""State of a TCP socket in /proc/net/tcp."""


def share(rack: Rack, claim: str, tray: Tray, domain: str) -> None:
    """A claim with a share of the channel, as with consumable capacity: the claim's name is the share's."""
    rack.forget(rack.claim(claim, tray, domain))
    parameters = {
        "apiVersion": "resource.nvidia.com/v1beta1",
        "domainID": domain,
        "kind": "ComputeDomainChannelConfig",
    }
    result = {
        "request": "channel", "driver": DRIVER, "pool": tray.name, "device": "channel-0",
        "shareID": claim,
    }  # fmt: skip
    config = {"source": "FromClaim", "opaque": {"driver": DRIVER, "parameters": parameters}}
    made = rack.server.add({
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": claim, "namespace": "ns"},
        "spec": {"devices": {"requests": []}},
        "status": {"allocation": {"devices": {"results": [result], "config": [config]}}},
    })  # fmt: skip
    rack.uids[claim] = made["metadata"]["uid"]


def listening(pid: int) -> list[str]:
    """Addresses on which a process listens, in the kernel's notation."""
    own = {
        connection.readlink().name
        for connection in Path(f"/proc/{pid}/fd").iterdir()
        if connection.is_symlink()
    }
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and f"socket:[{fields[9]}]" in own:
                found.append(fields[1])
    return found


def channels(tray: Tray, claim: str) -> list[int]:
    [device] = tray.cdi_spec(claim)["devices"]
    return [node["minor"] for node in device["containerEdits"]["deviceNodes"]]


def test_node_with_broken_fabric_tears_claims_down(rack):
    """F12, F18. Upstream's plugin refuses to start, so no pod can end."""
    [tray] = rack.trays
    uid = rack.domain("a")
    rack.claim("c1", tray, uid)
    rack.claim("c2", tray, uid)
    assert tray.prepare("c1").errors == {}
    pid = tray.imex()["pid"]
    for service in list(tray.services):
        tray.stop(service)
    tray.root.set_gpu(0, fabric_status=999)
    tray.start()
    tray.register()
    wait_until("the fabric's state", lambda: tray.status().get("fabricState") == "Failed")
    assert tray.imex()["pid"] == pid, "it serves its claims until their release"
    assert tray.unprepare("c1").errors == {}
    tray.wait_for_error("c2", "FabricFailed", "registration failed")
    assert tray.unprepare("c2").errors == {}
    assert (tray.cdi_spec("c1"), tray.cdi_spec("c2")) == (None, None)
    wait_until("nvidia-imex ends", lambda: tray.imex()["ActiveState"] == "inactive")


def test_claim_is_read_once_and_no_node_is_written(rack):
    """S8, S9. Upstream reads Node and clique repeatedly, and writes the whole Node twice."""
    [tray] = rack.trays
    uid = rack.domain("a")
    rack.claim("c1", tray, uid)
    begun = len(rack.server.api.log.lines())
    asked_at_s = time.monotonic()
    assert tray.prepare("c1").errors == {}
    # The claim is read again after each wait.
    waits = int((time.monotonic() - asked_at_s) / driver.WAIT_S)
    assert tray.unprepare("c1").errors == {}
    wait_until("nvidia-imex ends", lambda: tray.imex()["ActiveState"] == "inactive")
    asked = [(one.verb, one.resource) for one in rack.server.api.log.lines()[begun:]]
    assert 1 <= asked.count(("get", "resourceclaims")) <= 1 + waits
    assert {resource for verb, resource in asked if verb not in ("get", "list", "watch")} <= {
        "fabricnodes/status", "resourceslices", "resourceclaims/status", "events",
    }  # fmt: skip
    assert not [each for each in asked if each[1].startswith(("nodes", "computedomain"))]


def test_channel_count_is_the_loaded_drivers(make_rack):
    """S14. Upstream assumes 2048 everywhere."""
    made = make_rack()
    [tray] = made.trays
    params = tray.root.proc / "driver/nvidia/params"
    text = params.read_text()
    assert "ImexChannelCount: 2048" in text
    params.write_text(text.replace("ImexChannelCount: 2048", "ImexChannelCount: 16"))
    tray.start()
    tray.register()
    made.claim("c1", tray, made.domain("a"), mode="All")
    assert tray.prepare("c1").errors == {}
    assert channels(tray, "c1") == list(range(16))
    wait_until("the channel count", lambda: tray.status().get("channelCount") == 16)


def test_channel_major_is_read_below_proc_root(make_rack):
    """O-proc-devices. Upstream's ALT_PROC_DEVICES_PATH, for all of /proc."""
    made = make_rack()
    [tray] = made.trays
    devices = tray.root.proc / "devices"
    text = devices.read_text()
    (old,) = [line for line in text.splitlines() if line.endswith(" nvidia-caps-imex-channels")]
    devices.write_text(text.replace(old, "377 nvidia-caps-imex-channels"))
    tray.start()
    tray.register()
    made.claim("c1", tray, made.domain("a"))
    assert tray.prepare("c1").errors == {}
    [device] = tray.cdi_spec("c1")["devices"]
    assert {node["major"] for node in device["containerEdits"]["deviceNodes"]} == {377}


def test_channel_isolation_serves_two_domains(make_rack):
    """S1, S2, S3. Isolation ``channel``: several domains on a node, and several claims of each."""
    made = make_rack()
    [tray] = made.trays
    tray.start(sharedChannels=True)
    tray.register()
    first = made.domain("a", isolation="channel", channel=3, port=made.port)
    second = made.domain("b", isolation="channel", channel=4, port=made.port)
    for number, uid in enumerate((first, first, second)):
        share(made, f"c{number}", tray, uid)
        assert tray.prepare(f"c{number}").errors == {}
    assert [channels(tray, f"c{number}") for number in range(3)] == [[3], [3], [4]]
    assert tray.imex()["session"]["sessions"] == 1
    run = wait_until("the incarnation", lambda: tray.status()["imex"].get("incarnation"))
    assert run.get("domainUID", "") == ""
    assert tray.unprepare("c0").errors == {}
    assert tray.prepare("c1").errors == {}
    assert tray.imex()["session"]["sessions"] == 1, "the other claims keep it"


def test_services_stop_while_the_api_server_hangs(rack):
    """L16. Upstream's daemon can block in a send without a receiver until SIGKILL."""
    [tray] = rack.trays
    rack.claim("c1", tray, rack.domain("a"))
    assert tray.prepare("c1").errors == {}
    rack.server.api.faults.add(Fault(action="hang", count=0))
    rack.server.api.log.clear()
    wait_until("a report hangs", lambda: rack.server.api.log.count("patch"))
    for service in list(tray.services):
        assert tray.stop(service) == 0, service
    rack.server.api.faults.clear()


def test_services_listen_on_no_network(rack):
    """X6. They listen on unix sockets only."""
    [tray] = rack.trays
    rack.claim("c1", tray, rack.domain("a"))
    assert tray.prepare("c1").errors == {}
    for service, process in tray.services.items():
        assert listening(process.pid) == [], service
    tray.stop("imex-supervisor")
    tray.start("imex-supervisor", imexHttpEndpoint="127.0.0.1:0")
    with_one = tray.services["imex-supervisor"].pid
    wait_until("the check finds a configured endpoint", lambda: listening(with_one))


def accepts(port: int) -> bool:
    """Whether a service listens on the port: it starts its HTTP endpoint after its sockets."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_metrics_count_devices_and_quarantined_records(rack):
    """T-robust-metrics. Devices of prepared claims, and records in quarantine, also those of earlier starts."""
    [tray] = rack.trays
    tray.stop("compute-domain")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    state = tray.home / "state" / DRIVER
    (state / "claims" / "damaged.json").write_bytes(b"garbage")

    def value(metric: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return float(next(line for line in lines if line.startswith(metric)).split()[-1])

    prepared = (
        f'nvidia_dra_prepared_devices{{device_type="channel",driver="{DRIVER}",node="{tray.name}"}}'
    )
    rack.claim("c1", tray, rack.domain("a"))
    for _ in range(2):
        tray.start("compute-domain", computeDomainHttpEndpoint=f"127.0.0.1:{port}")
        tray.register()
        wait_until("the endpoint listens", lambda: accepts(port))
        assert value("nvidia_dra_records_quarantined") == 1
        assert tray.prepare("c1").errors == {}
        assert value(prepared) == 1
        tray.stop("compute-domain")
    tray.start("compute-domain", computeDomainHttpEndpoint=f"127.0.0.1:{port}")
    tray.register()
    assert tray.unprepare("c1").errors == {}
    wait_until("the endpoint listens", lambda: accepts(port))
    assert value(prepared) == 0

"""nvidia-imex run by the host's administrator, which is never touched; and the clique label."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from nvdra_core.errors import ConfigError
from nvdra_core.kube.resources import NODES
from nvdra_core.runtime.clock import Deadline, FakeClock, SystemClock
from nvdra_node import config
from nvdra_node.app.imex import gates_of
from nvdra_node.computedomain.clique_label import AUDIT_S, LABEL, CliqueLabelWriter
from nvdra_node.computedomain.model import NodeView
from tests.fakes.apiserver.faults import Fault
from tests.lib.objects import obj
from tests.lib.waits import wait_until
from tests.sim.imex import install

pytestmark = [pytest.mark.sim, pytest.mark.timeout(300)]


@pytest.fixture
def host_imex(make_rack):
    """A tray in hostManaged mode, and a function that starts the administrator's daemon."""
    rack = make_rack()
    [tray] = rack.trays
    socket = tray.home / "host.sock"
    config = tray.home / "host.cfg"
    nodes = tray.home / "nodes.cfg"
    nodes.write_text(f"{tray.address}\n")
    config.write_text(
        f"DAEMONIZE=0\nLOG_FILE_NAME=\nSERVER_PORT={rack.port}\nBIND_INTERFACE_IP={tray.address}\n"
        f"IMEX_NODE_CONFIG_FILE={nodes}\nIMEX_CMD_ENABLED=1\nIMEX_CMD_UNIX_DOMAIN_PATH={socket}\n"
    )
    started = []

    def start():
        program = str(tray.root.path / "usr/bin/nvidia-imex")
        started.append(subprocess.Popen([program, "-c", str(config)], stderr=subprocess.DEVNULL))

    gates = {"HostManagedIMEXDaemon": True}
    tray.start(imexMode="hostManaged", imexHostSocketPath=str(socket), featureGates=gates)
    tray.register()
    yield rack, tray, start
    for process in started:
        process.kill()
        process.wait()


def test_claims_wait_for_the_hosts_daemon(host_imex):
    rack, tray, start = host_imex
    rack.claim("c1", tray, rack.domain("a"))
    tray.wait_for_error("c1", "HostImexNotReady", "imexHostSocketPath")
    start()
    wait_until("the daemon is READY", lambda: tray.prepare("c1", timeout_s=20.0).errors == {})
    assert tray.cdi_spec("c1")["devices"][0]["containerEdits"]["deviceNodes"][0]["minor"] == 0
    assert tray.unprepare("c1").errors == {}
    assert install.session(tray.root.path)["held"]
    assert tray.imex()["ActiveState"] == "inactive", "our own unit was never started"


def test_host_managed_mode_needs_its_gate():
    settings = config.load(
        file_text="imexMode: hostManaged",
        file_name="config.yaml",
        environment={},
        flags={},
        host_name="n",
    )
    with pytest.raises(ConfigError, match="HostManagedIMEXDaemon"):
        gates_of(settings)


def test_hanging_host_daemon_is_not_ready(host_imex):
    rack, tray, start = host_imex
    install.configure(tray.root.path, hang_commands=True)
    start()
    rack.claim("c1", tray, rack.domain("a"))
    tray.wait_for_error("c1", "HostImexNotReady", "UNAVAILABLE")


def _node(name: str) -> dict[str, Any]:
    return obj("Node", name)


class TestLabel:
    def label(self, rack, view):
        return CliqueLabelWriter(rack.client, rack.trays[0].name, lambda: view, SystemClock())

    def labels(self, rack):
        node = rack.client.get(NODES, rack.trays[0].name, deadline=Deadline(10, SystemClock()))
        return node["metadata"].get("labels") or {}

    def test_clique_label_is_removed_with_the_fabric(self, make_rack):
        rack = make_rack()
        view = NodeView(fabric_state="Completed", clique_id="c.7")
        label = self.label(rack, view)
        label.write_if_due()
        assert self.labels(rack)[LABEL] == "c.7"
        label = self.label(rack, NodeView(fabric_state="NotSupported"))
        label._written = "c.7"
        label.write_if_due()
        assert LABEL not in self.labels(rack)

    def test_removed_clique_label_is_restored(self, make_rack):
        rack, clock = make_rack(), FakeClock()
        view = NodeView(fabric_state="Completed", clique_id="c.7")
        label = CliqueLabelWriter(rack.client, rack.trays[0].name, lambda: view, clock)
        label.write_if_due()
        body = _node(rack.trays[0].name)
        body["metadata"]["labels"] = {LABEL: None}
        rack.client.merge_patch(NODES, body, deadline=Deadline(10, SystemClock()))
        label.write_if_due()
        assert LABEL not in self.labels(rack), "written again only by the audit"
        clock.advance(AUDIT_S)
        label.write_if_due()
        assert self.labels(rack)[LABEL] == "c.7"

    def test_clique_label_stays_while_the_fabric_is_unknown(self, make_rack):
        rack = make_rack()
        self.label(rack, NodeView(fabric_state="Completed", clique_id="c.7")).write_if_due()
        self.label(rack, NodeView()).write_if_due()
        assert self.labels(rack)[LABEL] == "c.7"

    def test_foreign_clique_label_is_left_alone(self, make_rack):
        rack = make_rack()
        body = _node(rack.trays[0].name)
        body["metadata"]["labels"] = {LABEL: "theirs"}
        rack.client.merge_patch(NODES, body, deadline=Deadline(10, SystemClock()))
        rack.server.api.faults.add(Fault(verb="patch", resource="nodes", code=409, count=0))
        self.label(rack, NodeView(fabric_state="Completed", clique_id="c.7")).write_if_due()
        assert self.labels(rack)[LABEL] == "theirs"

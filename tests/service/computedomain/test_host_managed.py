"""nvidia-imex run by the host's administrator, which is never touched."""

from __future__ import annotations

import subprocess

import pytest

from nvdra_core.errors import ConfigError
from nvdra_node import config
from nvdra_node.app.imex import gates_of
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

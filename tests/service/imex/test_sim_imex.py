"""The simulated nvidia-imex behaves as the real one is known to."""

from __future__ import annotations

import json
import signal
import time

from tests.beds.services.imex_fleet import DAEMON_TIMEOUT_S
from tests.lib.waits import wait_until
from tests.sim.imex import commands, install


def matrix(host):
    nodes = json.loads(host.ctl("-N", "-j").stdout)["nodes"]
    return {
        number: {peer: c["status"] for peer, c in node["connections"].items()}
        for number, node in nodes.items()
        if node["connections"]
    }


def test_absent_peers_block_nothing_and_query_no_dns(make_hosts):
    [host] = make_hosts(1, slots=18)
    host.start()
    host.wait("READY")
    answer = host.ctl("-q")
    assert (answer.stdout, answer.stderr, answer.returncode) == ("READY\n", "", 0)
    domain = json.loads(host.ctl("-N", "-j").stdout)
    assert domain["status"] == "DEGRADED"
    assert [n["status"] for n in domain["nodes"].values()].count("UNAVAILABLE") == 17
    assert "Identified this node as ID 0" in host.text()
    assert commands.ask(str(host.run / "cmd.sock"), "status", 5.0)["dnsQueries"] == 0


def test_peers_connect_both_ways_over_tcp(make_hosts):
    first, second = make_hosts(2)
    for host in (first, second):
        host.start()
        host.wait("READY")
    second.kill(signal.SIGUSR1)
    first.kill(signal.SIGUSR1)
    wait_until("0 -> 1", lambda: matrix(first).get("0", {}).get("1") == "CONNECTED")
    wait_until("1 -> 0, seen by 0", lambda: matrix(first).get("1", {}).get("0") == "CONNECTED")


def test_one_session_per_host(make_hosts):
    [host] = make_hosts(1)
    running = host.start()
    host.wait("READY")
    assert install.session(host.root)["held"]
    assert host.start().wait(DAEMON_TIMEOUT_S) == 1
    assert "NV_ERR_IN_USE" in host.text()
    host.process = running


def test_abrupt_end_disables_allocations(make_hosts):
    [host] = make_hosts(1)
    host.start()
    host.wait("READY")
    assert host.stop() == 0
    assert install.session(host.root)["allocations"] is True
    assert not host.persist.exists()
    host.start()
    host.wait("READY")
    host.stop(signal.SIGKILL)
    assert install.session(host.root)["allocations"] is False
    assert host.persist.exists()
    host.start()
    host.wait("READY")
    assert install.session(host.root)["abrupt"] == 1


def test_recovery_waits_for_the_earlier_peers(make_hosts):
    first, second = make_hosts(2)
    for host in (first, second):
        host.start()
        host.wait("READY")
    first.kill(signal.SIGUSR1)
    wait_until("1 is remembered", lambda: '"peers": [1]' in first.persist.read_text())
    first.stop(signal.SIGKILL)
    second.stop()
    first.start()
    first.wait("WAITING_FOR_RECOVERY")
    second.start()
    first.wait("READY")


def test_recovery_is_dropped_when_the_node_list_changed(make_hosts):
    [host] = make_hosts(1)
    host.persist.parent.mkdir()
    host.persist.write_text('{"digest": "another", "peers": [1]}')
    host.start()
    host.wait("READY")


def test_peers_with_other_node_lists_are_refused(make_hosts):
    first, second = make_hosts(2)
    second.nodes.write_text(second.nodes.read_text() + "one-more\n")
    for host in (first, second):
        host.start()
        host.wait("READY")
    first.kill(signal.SIGUSR1)
    wait_until("the log says so", lambda: "not matching" in first.text() + second.text())
    wait_until(
        "and so does the matrix", lambda: matrix(first).get("0", {}).get("1") == "NODE_MAP_MISMATCH"
    )


def test_usr1_resolves_again_and_full_quorum_waits_for_all(make_hosts):
    first, second = make_hosts(2, slots=2)
    first.write_config(IMEX_WAIT_FOR_QUORUM="FULL")
    first.know()
    for host in (first, second):
        host.start()
    first.wait("WAITING_FOR_PEERS")
    first.know(second)
    first.kill(signal.SIGUSR1)
    first.wait("READY")


def test_daemon_without_its_address_does_not_start(make_hosts):
    [host] = make_hosts(1)
    host.hosts.write_text("")
    assert host.start().wait(DAEMON_TIMEOUT_S) == 1
    assert "No matching network interface found" in host.text()


def test_daemon_without_fabric_exits_with_0(make_hosts):
    [host] = make_hosts(1)
    (host.root / "proc/driver/nvidia/capabilities/fabric-imex-mgmt").unlink()
    assert host.start().wait(DAEMON_TIMEOUT_S) == 0


def test_ctl_reports_errors(make_hosts):
    [host] = make_hosts(1)
    assert host.ctl("-q").returncode == 1
    host.nodes.unlink()
    assert host.ctl("-N").returncode == 255


def test_hanging_commands_end_at_ctls_timeout(make_hosts):
    [host] = make_hosts(1)
    host.start()
    host.wait("READY")
    install.configure(host.root, hang_commands=True)
    started = time.monotonic()
    assert host.ctl("-q", "-t", "200").returncode == 1
    assert time.monotonic() - started >= 0.2


def test_faults_crash_fail_and_block_the_daemon(make_hosts):
    [host] = make_hosts(1)
    install.configure(host.root, exit_status=3, exit_message="configured failure")
    assert host.start().wait(DAEMON_TIMEOUT_S) == 3
    install.configure(host.root, exit_status=None, stuck_state="INIT_GPU")
    host.start()
    host.wait("INIT_GPU")
    install.configure(host.root, stuck_state=None)
    host.wait("READY")
    install.configure(host.root, crash_after_s=0)
    assert host.process.wait(DAEMON_TIMEOUT_S) == -signal.SIGKILL

"""The clients of systemd and nvidia-imex-ctl: what they run, and how they parse the output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from nvdra_core.api.fabric import FabricPeer, ImexState
from nvdra_core.errors import CommandError
from nvdra_core.runtime.clock import Deadline
from nvdra_node.host.ports import CommandResult
from nvdra_node.host.systemctl import SystemctlUnits, parse_show
from nvdra_node.imex.daemon.ctl import ImexCtl, parse_domain, parse_state
from nvdra_node.imex.daemon.unit import SystemdClient, parse_unit
from nvdra_node.imex.model import Run, UnitActivity
from nvdra_node.imex.sources import fabric
from tests.fakes.clock import FakeClock
from tests.fakes.host.commands import FakeCommands, hang

SYSTEMCTL, JOURNALCTL = Path("/usr/bin/systemctl"), Path("/usr/bin/journalctl")
SHOW = """Id=nvdra-imex.service
ActiveState=active
InvocationID=4f2e
Result=success
ExecMainStatus=0

Id=nvidia-imex.service
ActiveState={foreign}
InvocationID=
Result=success
ExecMainStatus=0
"""
RUN = Run(domain_uid="A", clique_id="c.1", slot=2, slot_count=4, port=50001, address="10.0.0.2")


def answer(text):
    return lambda argv: CommandResult(stdout=text, stderr="")


def deadline(seconds=5.0):
    return Deadline(seconds, FakeClock())


class TestUnit:
    def unit(self, **programs):
        self.commands = FakeCommands(FakeClock(), {f"/usr/bin/{k}": v for k, v in programs.items()})
        return SystemdClient(SystemctlUnits(self.commands, SYSTEMCTL), self.commands, JOURNALCTL)

    def test_status_has_the_unit_and_a_foreign_session(self):
        status = self.unit(systemctl=answer(SHOW.format(foreign="active"))).status(deadline())
        assert (status.unit.activity, status.unit.invocation_id) == (UnitActivity.ACTIVE, "4f2e")
        assert status.foreign == "nvidia-imex.service"

    def test_inactive_foreign_unit_is_left_out(self):
        assert (
            self.unit(systemctl=answer(SHOW.format(foreign="inactive"))).status(deadline()).foreign
            == ""
        )

    def test_unit_is_started_stopped_and_signalled_by_name(self):
        unit = self.unit(systemctl=answer(""))
        unit.start(deadline())
        unit.stop(deadline())
        unit.reload(deadline())
        assert [argv[1:] for argv in self.commands.history] == [
            ("start", "nvdra-imex.service"),
            ("stop", "nvdra-imex.service"),
            ("kill", "--signal=SIGUSR1", "nvdra-imex.service"),
        ]

    def test_failing_systemctl_is_an_error(self):
        with pytest.raises(CommandError):
            self.unit(systemctl=lambda argv: 1).status(deadline())

    def test_last_log_lines_are_joined_and_never_an_error(self):
        unit = self.unit(journalctl=answer("first\n\n  second \n"))
        assert unit.last_log_lines("4f2e", deadline()) == "first | second"
        assert self.unit().last_log_lines("4f2e", deadline()) == ""

    @pytest.mark.parametrize(
        ("state", "activity"),
        [
            ("inactive", UnitActivity.INACTIVE),
            ("failed", UnitActivity.FAILED),
            ("deactivating", UnitActivity.DEACTIVATING),
            ("reloading", UnitActivity.ACTIVE),
            ("something-new", UnitActivity.ACTIVATING),
        ],
    )
    def test_systemd_states_are_mapped(self, state, activity):
        assert parse_unit({"ActiveState": state}).activity is activity

    def test_exit_result_and_status_are_parsed(self):
        unit = parse_unit({"ActiveState": "failed", "Result": "exit-code", "ExecMainStatus": "1"})
        assert (unit.result, unit.exit_status) == ("exit-code", 1)

    def test_unknown_units_are_left_out(self):
        assert parse_show("") == {}


class TestCtl:
    def ctl(self, program, config=Path("/run/imexd.cfg")):
        commands = FakeCommands(FakeClock(), {"/usr/bin/nvidia-imex-ctl": program})
        return ImexCtl(
            commands,
            Path("/usr/bin/nvidia-imex-ctl"),
            Path("/usr/bin/nvidia-imex"),
            config,
            Path("/run/imex.sock"),
        )

    @pytest.mark.parametrize(
        "state", [s.value for s in ImexState if s.value and s.value != "STOPPED"]
    )
    def test_states_of_nvidia_imex_are_parsed(self, state):
        assert parse_state(f"{state}\n").value == state

    @pytest.mark.parametrize(
        "text", ["", "READY to fail\n", "not READY\n", "STOPPED\n", "ready\n", "READY\nx\n"]
    )
    def test_other_output_is_unavailable(self, text):
        assert parse_state(text) is ImexState.UNAVAILABLE

    def test_hanging_and_failing_ctl_is_unavailable(self):
        assert self.ctl(hang).state(deadline()) is ImexState.UNAVAILABLE
        assert self.ctl(lambda argv: 1).state(deadline()) is ImexState.UNAVAILABLE

    @pytest.mark.parametrize(
        ("program", "problem"),
        [
            (answer("READY\n"), ""), (answer("UNAVAILABLE\n"), ""),
            (answer("Usage: nvidia-imex-ctl [-i IP PORT]\n"), "wrote 'Usage: nvidia-imex-ctl"),
            (lambda argv: 255, "255"), (hang, "nvidia-imex-ctl"),
        ],
        ids=["ready", "unavailable", "usage", "status", "hang"],
    )  # fmt: skip
    def test_missing_answer_has_a_cause(self, program, problem):
        """Another release of the program may not know an option."""
        ctl = self.ctl(program)
        ctl.state(deadline())
        assert problem in ctl.last_error() and bool(problem) == bool(ctl.last_error())

    def test_hosts_own_daemon_is_not_asked_for_its_domain(self):
        assert self.ctl(hang, config=None).domain(RUN, deadline()) is None

    def test_malformed_output_is_no_view(self):
        for text in ("", "[]", '{"nodes": []}', "null"):
            assert self.ctl(answer(text)).domain(RUN, deadline()) is None

    def test_view_is_of_the_own_node(self):
        nodes = {
            "0": {"status": "READY", "host": "10.0.0.1", "connections": {"2": {"status": "CONNECTED"}}},
            "2": {
                "status": "READY", "host": "10.0.0.2", "version": "580.65",
                "connections": {
                    "0": {"status": "CONNECTED"}, "1": {"status": "INVALID"}, "2": {"status": "CONNECTED"},
                },
            },
        }  # fmt: skip
        view = self.ctl(answer(json.dumps({"nodes": nodes}))).domain(RUN, deadline())
        assert (view.own, view.connected, view.version) == (2, frozenset({0}), "580.65")

    @pytest.mark.parametrize(
        ("status", "problem"),
        [
            ("VERSION_MISMATCH", "VersionMismatch"), ("Version mismatch", "VersionMismatch"),
            ("NODE_MAP_MISMATCH", "NodeMapMismatch"), ("NODEMAP_MISMATCH", "NodeMapMismatch"),
            ("INVALID", "Unreachable"), ("DISCONNECTED", "Unreachable"), ("", "Unreachable"),
        ],
    )  # fmt: skip
    def test_unconnected_peer_has_cause_and_version(self, status, problem):
        nodes = {
            "1": {"status": "UNAVAILABLE", "host": "10.0.0.1", "version": "570.1"},
            "2": {"status": "READY", "host": "10.0.0.2", "connections": {"1": {"status": status}}},
        }
        view = parse_domain({"nodes": nodes}, RUN)
        assert view.connected == frozenset()
        assert view.problems == (FabricPeer(slot=1, problem=problem, version="570.1"),)

    @pytest.mark.parametrize("host", ["fd00::2", "[fd00::2]", "FD00:0:0::2", "fd00:0:0:0:0:0:0:2"])
    def test_own_node_is_found_by_any_ipv6_spelling(self, host):
        nodes = {
            "2": {"status": "READY", "host": host, "connections": {"0": {"status": "CONNECTED"}}}
        }
        view = parse_domain({"nodes": nodes}, replace(RUN, address="fd00::2"))
        assert (view.own, view.connected) == (2, frozenset({0}))

    def test_daemon_with_another_id_is_recognised(self):
        nodes = {"3": {"status": "READY", "host": "10.0.0.2", "connections": {}}}
        assert parse_domain({"nodes": nodes}, RUN).own == 3


@pytest.mark.parametrize(
    ("params", "count"),
    [(b"A: 1\nImexChannelCount: 16\n", 16), (b"", 0), (None, 0), (b"ImexChannelCount: x\n", 0)],
)
def test_channel_count_is_the_drivers(params, count):
    assert fabric.channel_count(params) == count

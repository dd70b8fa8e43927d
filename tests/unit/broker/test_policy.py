"""Permissions of the unit broker, and the caller's unit."""

from __future__ import annotations

import json

import pytest

from nvdra_core.errors import UnitRequestError
from nvdra_node.broker import policy
from nvdra_node.broker.caller import unit_of

IMEX, FOREIGN = "nvdra-imex.service", "nvidia-imex.service"
UNIFIED_MANAGER = "0::/init.scope\n"


def ask(**body):
    return policy.parse(json.dumps(body).encode())


@pytest.mark.parametrize("verb", ["show", "start", "stop", "reload", "reset-failed"])
def test_supervisor_may_control_the_daemons_unit(verb):
    policy.check(policy.SUPERVISOR, ask(verb=verb, units=[IMEX]))


@pytest.mark.parametrize("verb", ["start", "stop", "reload", "reset-failed"])
@pytest.mark.parametrize(
    "unit", [FOREIGN, "sshd.service", policy.SUPERVISOR, "reboot.target", "--help"]
)
def test_every_other_unit_is_refused(verb, unit):
    with pytest.raises(UnitRequestError, match="not permitted"):
        policy.check(policy.SUPERVISOR, ask(verb=verb, units=[unit]))


def test_one_refused_unit_refuses_the_request():
    policy.check(policy.SUPERVISOR, ask(verb="show", units=[IMEX, FOREIGN]))
    with pytest.raises(UnitRequestError):
        policy.check(policy.SUPERVISOR, ask(verb="show", units=[IMEX, "sshd.service"]))


@pytest.mark.parametrize("caller", [policy.BROKER, "nvdra-gpu-plugin.service", IMEX, ""])
def test_other_callers_have_no_permissions(caller):
    with pytest.raises(UnitRequestError):
        policy.check(caller, ask(verb="show", units=[IMEX]))


@pytest.mark.parametrize(
    "body",
    [
        {}, {"verb": "enable", "units": [IMEX]}, {"verb": "start"}, {"verb": "start", "units": [IMEX, IMEX]},
        {"verb": "show"}, {"verb": "ping", "units": [IMEX]}, {"verb": "start", "units": IMEX},
        {"verb": "start", "units": [IMEX], "timeoutSeconds": 0}, {"verb": "show", "units": [IMEX] * 9},
        {"verb": "show", "units": ["a" * 256]}, [], None, 7,
    ],
)  # fmt: skip
def test_malformed_requests_are_refused(body):
    with pytest.raises(UnitRequestError, match="invalid request"):
        policy.parse(json.dumps(body).encode())


def test_fields_of_a_newer_caller_are_ignored():
    """During an upgrade the supervisor may be newer than the broker."""
    request = ask(verb="start", units=[IMEX], jobMode="replace")
    assert (request.verb, request.units) == ("start", [IMEX])
    policy.check(policy.SUPERVISOR, request)
    with pytest.raises(UnitRequestError, match="not permitted"):
        policy.check(policy.SUPERVISOR, ask(verb="start", units=[FOREIGN], jobMode="replace"))


@pytest.mark.parametrize("line", [b"", b"{", b"\xff\xfe", b"start nvdra-imex.service", b"[" * 4000])
def test_lines_without_json_are_refused(line):
    with pytest.raises(UnitRequestError, match="invalid request"):
        policy.parse(line)


@pytest.mark.parametrize(
    ("cgroup", "manager", "unit"),
    [
        ("0::/system.slice/nvdra-imex-supervisor.service\n", UNIFIED_MANAGER, policy.SUPERVISOR),
        ("0::/nvdra.slice/nvdra-a.slice/u.service\n", UNIFIED_MANAGER, "u.service"),
        ("0::/system.slice/u.service/.control\n", UNIFIED_MANAGER, "u.service"),
        (
            "12:pids:/x\n1:name=systemd:/system.slice/u.service\n0::/\n",
            "1:name=systemd:/init.scope\n0::/\n",
            "u.service",
        ),
        # A container's systemd is not at the top of the hierarchy that it sees.
        ("0::/a/system.slice/u.service\n", "0::/a/init.scope\n", "u.service"),
        ("0::/b/system.slice/u.service\n", "0::/a/init.scope\n", ""),
        ("0::/ab/system.slice/u.service\n", "0::/a/init.scope\n", ""),
        # Cgroups below a container's own do not count.
        (
            "0::/kubepods.slice/cri-containerd-1.scope/nvdra-imex-supervisor.service\n",
            UNIFIED_MANAGER,
            "cri-containerd-1.scope",
        ),
        (f"0::/kubepods/pod1/{policy.SUPERVISOR}\n", UNIFIED_MANAGER, "kubepods"),
        ("0::/user.slice/user-0.slice/session-1.scope\n", UNIFIED_MANAGER, "session-1.scope"),
        ("0::/\n", UNIFIED_MANAGER, ""),
        ("0::/../../system.slice/u.service\n", UNIFIED_MANAGER, ""),
    ],
)
def test_cgroup_names_the_unit_as_systemd_has_it(cgroup, manager, unit):
    assert unit_of(cgroup, manager) == unit

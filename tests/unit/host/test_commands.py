"""Real programs: daemons, excess output, orphans."""

from __future__ import annotations

import os
import select
import subprocess
from functools import partial
from pathlib import Path

import pytest

from nvdra_core.errors import CommandError
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_node.host.commands import MAX_UNKILLABLE, SystemCommands, kill_group

CLOCK = SystemClock()


def run(script: str, timeout_s: float = 5.0, limit_bytes: int = 2**20) -> str:
    commands = SystemCommands(output_limit_bytes=limit_bytes, kill=partial(kill_group, wait_s=60))
    return commands.run(["sh", "-c", script], Deadline(timeout_s, CLOCK)).stdout


def test_daemon_left_behind_does_not_block_the_caller(tmp_path: Path) -> None:
    start_s = CLOCK.monotonic()
    pid_file = tmp_path / "pid"
    assert run(f"sleep 90 & echo $! > {pid_file}; echo done", 60.0) == "done\n"
    assert CLOCK.monotonic() - start_s < 60.0
    os.kill(int(pid_file.read_text()), 9)


def test_process_group_is_killed_at_the_deadline(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with pytest.raises(CommandError):
        run(f"sleep 30 & echo $! > {pid_file}; wait", 1.0)
    assert _is_gone(int(pid_file.read_text()))


def test_excess_output_is_an_error_and_ends_the_program() -> None:
    with pytest.raises(CommandError, match="more than 1000 bytes"):
        run("while :; do echo aaaaaaaaaaaaaaaaaaaa; done", limit_bytes=1000)


def test_large_output_on_both_pipes_is_read_whole() -> None:
    result = SystemCommands().run(
        ["sh", "-c", "head -c 300000 /dev/zero | tr '\\0' x; head -c 300000 /dev/zero >&2"],
        Deadline(5, CLOCK),
    )
    assert (len(result.stdout), len(result.stderr)) == (300000, 300000)


def test_error_has_the_programs_output() -> None:
    with pytest.raises(CommandError, match="no such GPU") as caught:
        run("echo no such GPU >&2; exit 6")
    assert (caught.value.returncode, caught.value.output) == (6, "no such GPU")


def test_program_killed_by_signal_has_negative_status() -> None:
    with pytest.raises(CommandError) as caught:
        run("kill -9 $$")
    assert caught.value.returncode == -9


def test_programs_get_a_fixed_environment_and_no_input() -> None:
    names = {line.split("=")[0] for line in run("env; cat").splitlines()}
    assert names - {"PWD", "SHLVL", "_"} == {"PATH", "LC_ALL"}


def _is_gone(pid: int) -> bool:
    """Ends within a moment: of a killed group only the leader is waited for."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], 5.0)[0])
    finally:
        os.close(fd)


def test_unkillable_programs_are_limited() -> None:
    stuck: list[subprocess.Popen[bytes]] = []

    def hold(process: subprocess.Popen[bytes]) -> bool:
        """As the kernel does with a program that waits for a GPU which never answers."""
        stuck.append(process)
        return False

    commands = SystemCommands(kill=hold)
    for _ in range(MAX_UNKILLABLE):
        with pytest.raises(CommandError, match="in time"):
            commands.run(["sleep", "60"], Deadline(0.05, CLOCK))
    with pytest.raises(CommandError, match="cannot be killed"):
        commands.run(["sleep", "60"], Deadline(0.05, CLOCK))
    assert len(stuck) == MAX_UNKILLABLE
    assert commands.run(["echo", "others go on"], Deadline(5, CLOCK)).stdout == "others go on\n"
    for process in stuck:
        assert kill_group(process)
    assert commands.run(["sleep", "0"], Deadline(5, CLOCK)).stdout == ""

"""The same rules on the fake commands and on real programs."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from nvdra_core.errors import CommandError
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_node.host.commands import SystemCommands, kill_group
from nvdra_node.host.ports import CommandResult, Commands
from tests.fakes.host.commands import FakeCommands, hang

CLOCK = SystemClock()


@pytest.fixture(params=["fake", "real"])
def commands(request: pytest.FixtureRequest) -> Commands:
    if request.param == "real":
        return SystemCommands(kill=partial(kill_group, wait_s=60))
    return FakeCommands(
        CLOCK,
        {
            "echo": lambda argv: CommandResult(stdout=" ".join(argv[1:]) + "\n", stderr=""),
            "false": lambda argv: 1,
            "sleep": hang,
        },
    )


def test_output_of_a_command_that_succeeds(commands: Commands) -> None:
    result = commands.run(["echo", "a  b", "$HOME"], Deadline(5, CLOCK))
    assert result == CommandResult(stdout="a  b $HOME\n", stderr="")


def test_failing_command_is_an_error_with_its_status(commands: Commands) -> None:
    with pytest.raises(CommandError) as caught:
        commands.run(["false"], Deadline(5, CLOCK))
    assert caught.value.returncode == 1 and caught.value.argv == ("false",)


def test_missing_program_is_an_error_without_status(commands: Commands) -> None:
    with pytest.raises(CommandError) as caught:
        commands.run(["no-such-program-here"], Deadline(5, CLOCK))
    assert caught.value.returncode is None


def test_command_is_ended_at_its_deadline(commands: Commands) -> None:
    start_s = CLOCK.monotonic()
    with pytest.raises(CommandError, match="did not end in time") as caught:
        commands.run(["sleep", "30"], Deadline(0.1, CLOCK))
    assert caught.value.returncode is None
    assert CLOCK.monotonic() - start_s < 8.0


def test_close_ends_running_and_later_commands(commands: Commands) -> None:
    failures: list[str] = []

    def run_one() -> None:
        with pytest.raises(CommandError) as caught:
            commands.run(["sleep", "60"], Deadline(60, CLOCK))
        failures.append(str(caught.value))

    running = threading.Thread(target=run_one)
    running.start()
    commands.close()
    running.join(30)
    run_one()
    assert len(failures) == 2 and all("the service stops" in text for text in failures)

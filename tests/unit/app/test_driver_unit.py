"""Units after a driver load: a blocked command does not keep the others from running."""

from pathlib import Path

UNITS = Path(__file__).parents[3] / "systemd"


def commands_of(unit: str) -> list[str]:
    lines = (UNITS / unit).read_text().splitlines()
    return [line for line in lines if line.startswith("ExecStart=")]


def test_driver_target_is_reached_without_a_gpus_device_node():
    commands = commands_of("nvdra-driver.service")
    made = [line for line in commands if "nvdra-device-nodes.service" in line]
    notified = [
        line for line in commands if "try-reload-or-restart" in line or "for unit in" in line
    ]
    assert made == ["ExecStart=-systemctl restart nvdra-device-nodes.service"]
    assert commands.index(made[0]) < commands.index(notified[0])


def test_common_device_nodes_are_created_before_gpus_are_used():
    commands = commands_of("nvdra-device-nodes.service")
    asking = [index for index, line in enumerate(commands) if "/gpus/" in line]
    assert asking == [len(commands) - 1]
    assert all(any(what in line for line in commands[:-1]) for what in ("-c 255'", "-u -c 0'"))

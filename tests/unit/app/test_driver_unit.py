"""The units around a driver that was loaded: what holds one command up must not cost what the others do."""

from pathlib import Path

UNITS = Path(__file__).parents[3] / "systemd"


def commands_of(unit: str) -> list[str]:
    lines = (UNITS / unit).read_text().splitlines()
    return [line for line in lines if line.startswith("ExecStart=")]


def test_services_are_told_of_a_driver_also_when_a_sick_gpu_has_no_device_node():
    commands = commands_of("nvdra-driver.service")
    made = [line for line in commands if "nvdra-device-nodes.service" in line]
    told = [line for line in commands if "try-reload-or-restart" in line or "for unit in" in line]
    assert made == ["ExecStart=-systemctl restart nvdra-device-nodes.service"]
    assert commands.index(made[0]) < commands.index(told[0])


def test_nodes_that_all_gpus_need_are_made_before_any_gpu_is_asked():
    commands = commands_of("nvdra-device-nodes.service")
    asking = [index for index, line in enumerate(commands) if "/gpus/" in line]
    assert asking == [len(commands) - 1]
    assert all(any(what in line for line in commands[:-1]) for what in ("-c 255'", "-u -c 0'"))

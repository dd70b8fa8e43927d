"""The unit that tells running services of a driver that was loaded: what holds it up must not end it."""

from pathlib import Path

UNIT = Path(__file__).parents[3] / "systemd/nvdra-driver.service"


def test_services_are_told_of_a_driver_also_when_a_sick_gpu_has_no_device_node():
    commands = [line for line in UNIT.read_text().splitlines() if line.startswith("ExecStart=")]
    made = [line for line in commands if "nvdra-device-nodes.service" in line]
    told = [line for line in commands if "try-reload-or-restart" in line or "for unit in" in line]
    assert made == ["ExecStart=-systemctl restart nvdra-device-nodes.service"]
    assert commands.index(made[0]) < commands.index(told[0])

"""The only doors to the machine: NVML, sysfs, /proc, commands, units. Protocols in ``ports``, fakes in ``fake``."""

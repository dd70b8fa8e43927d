"""All access to the machine: NVML, sysfs, /proc, files, commands, units. Protocols in ``ports``, fakes in ``tests``."""

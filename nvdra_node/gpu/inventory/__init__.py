"""The GPUs of this node as NVML and sysfs describe them, kept current. Enter at ``rescan``."""

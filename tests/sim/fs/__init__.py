"""The simulated host's files: /dev, /proc, /sys, the driver root."""

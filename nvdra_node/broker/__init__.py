"""The unit broker: starts and stops units for services of ours that must not reach systemd themselves."""

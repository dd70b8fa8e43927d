"""The unit broker: starts and stops units for services that have no access to systemd."""

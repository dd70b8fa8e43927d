"""Fakes of the host ports: small implementations with state, tested against the same contracts."""

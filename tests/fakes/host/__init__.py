"""Fakes of the host ports: small real implementations with state, shipped, tested against the same contract."""

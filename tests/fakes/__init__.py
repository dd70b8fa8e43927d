"""Fakes with state, each tested against the same contract as the real thing: API server, host, drivers, supervisor."""

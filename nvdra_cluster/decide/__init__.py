"""Decisions of the controller: pure functions from snapshots to writes and requests. Called by ``control`` alone."""

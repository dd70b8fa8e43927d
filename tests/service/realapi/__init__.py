"""Chart, policies and controller on a real API server."""

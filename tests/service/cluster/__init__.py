"""The controller against the in-memory API server."""

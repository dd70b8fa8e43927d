"""The controller on a fake API server."""

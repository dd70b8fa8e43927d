"""Decisions about FabricNodes. Pure."""

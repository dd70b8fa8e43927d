"""Decisions about one ComputeDomain. Pure."""

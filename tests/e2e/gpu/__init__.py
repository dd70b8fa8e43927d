"""Pods with GPUs."""

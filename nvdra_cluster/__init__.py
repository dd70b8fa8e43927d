"""The cluster half: controller and webhook. Imports ``nvdra_core`` only."""

"""Publishes the driver's ResourceSlices of this node. Entry: ``publisher``."""

"""Inputs of the supervisor: the FabricNode spec, the GPUs' fabric, this host's address, the daemon's peers."""

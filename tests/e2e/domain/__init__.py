"""ComputeDomains over several nodes."""

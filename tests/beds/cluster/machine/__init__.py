"""The nodes of a cluster: namespaces, cgroups, network, processes."""

"""Hosts with a systemd of their own: a cluster's node, another release, or one for packages."""

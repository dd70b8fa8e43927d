"""The node half: systemd services that give this host's GPUs to Kubernetes.

Enter at ``cli`` (one sub-command per unit), then ``app``, then ``gpu/driver``. Imports ``nvdra_core`` only.
"""

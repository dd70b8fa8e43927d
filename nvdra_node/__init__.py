"""The node half: systemd services that give this host's GPUs to Kubernetes.

Enter at ``cli`` (one sub-command per unit), then ``app``, then ``gpu/driver``. Imports ``nvdra_core`` only.
"""

from nvdra_core import lean

# Imported by dataclasses and urllib.parse, which hardly use them: 1.3 MB and 10 ms of start.
lean.postpone("inspect", "ipaddress")

"""The node half: systemd services that give this host's GPUs to Kubernetes.

Enter at ``cli`` (one sub-command per unit), then ``app``, then ``gpu/driver``. Imports ``nvdra_core`` only.
"""

from nvdra_core.runtime import lean

# Imported by libraries that need them only to show an error, to translate, or on other systems: 2 MB, 15 ms of start.
lean.postpone("inspect", "ipaddress", "locale", "ntpath", "pkgutil", "textwrap", "tokenize")

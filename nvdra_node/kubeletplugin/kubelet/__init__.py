"""The services that the kubelet calls: registration, the DRA service, health streams. Enter at ``server``."""

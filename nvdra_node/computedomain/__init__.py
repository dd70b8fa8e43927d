"""The driver compute-domain.nvidia.com: channels of the node's IMEX daemon for claims. Same file names as ``gpu``."""

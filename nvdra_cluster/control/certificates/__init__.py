"""The CA of IMEX peers and the certificates of nodes."""

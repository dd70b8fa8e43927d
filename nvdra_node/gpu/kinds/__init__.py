"""Kinds of allocatable devices, one module each, behind the protocol in ``base``. No kind imports another."""

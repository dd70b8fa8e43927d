"""Driver ``gpu.nvidia.com``. Enter at ``driver``; device kinds are in ``kinds``, host changes in ``effects``
(docs/decisions/0010-device-kinds.md).
"""

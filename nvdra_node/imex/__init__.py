"""The node's IMEX daemon: decisions (``decide``, ``readiness``: pure), loop (``supervisor``), clients (``daemon``)."""

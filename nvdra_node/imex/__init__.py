"""The node's one IMEX daemon: what it must be (``decide``, ``render``, ``report``: pure), and the deps that make it
so."""

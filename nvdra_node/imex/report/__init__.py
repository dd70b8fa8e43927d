"""FabricNode status: what it says (``status``, ``peers``: pure) and when it is written (``writer``)."""

"""The shell around ``decide``: watches, cache, leadership, writes. Enter at ``loop``."""

"""Host changes that preparing a claim makes, one module each, behind the protocol in ``base``."""

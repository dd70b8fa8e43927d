"""This driver's ResourceSlices on this node: laid out, compared, published, watched. Enter at ``publisher``."""

"""ResourceClaims on this node: read, prepare, record, unprepare. Start reading at ``transaction``."""

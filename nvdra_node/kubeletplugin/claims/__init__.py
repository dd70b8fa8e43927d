"""ResourceClaims on this node: read, checked, prepared, recorded, unprepared. Enter at ``transaction``."""

"""CDI: container edits as data, the driver's common edits, and one complete spec file per claim."""

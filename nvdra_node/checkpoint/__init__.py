"""One record file per prepared claim, written atomically. Enter at ``store``. Knows no driver."""

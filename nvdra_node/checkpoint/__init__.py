"""One record file per claim, written atomically. Start reading at ``store``. Knows no driver."""

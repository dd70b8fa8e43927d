"""What installing, upgrading and removing the packages does."""

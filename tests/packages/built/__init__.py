"""What is in the packages."""

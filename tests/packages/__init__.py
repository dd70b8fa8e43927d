"""The deb and rpm packages: what is in them, and what installing, upgrading and removing them does."""

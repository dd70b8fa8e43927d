"""The units of systemd/ on hosts."""

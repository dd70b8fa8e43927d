"""Tests of the certificates of IMEX peers."""

"""Tests of the decisions of the controller."""

"""Radial flows."""

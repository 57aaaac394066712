"""Sylvester flows."""

"""Planar flows."""

"""Inverse autoregressive flows."""

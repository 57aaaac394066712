"""Foundations: errors, seeds, files, strict records, the registry; imports nothing else of the suite."""

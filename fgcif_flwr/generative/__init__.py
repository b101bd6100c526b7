"""Generators of rows (none yet)."""

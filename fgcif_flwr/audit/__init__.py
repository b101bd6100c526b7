"""Attacks that measure leakage (none yet)."""

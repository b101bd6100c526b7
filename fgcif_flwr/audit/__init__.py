"""Attacks that measure leakage."""

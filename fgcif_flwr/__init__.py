"""FGCIF: several enterprises learn from their customers together without showing each other one."""

__version__ = "0.1.0"

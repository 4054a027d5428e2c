"""The engine room: shards, plans and engines. It names no concrete stage."""

__version__ = "0.1.0"

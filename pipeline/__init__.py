"""The engine room: shards, plans and engines. It names no concrete stage."""

"""Standfast in other frameworks: ASGI, httpx and gRPC. Each module imports what it adapts to."""

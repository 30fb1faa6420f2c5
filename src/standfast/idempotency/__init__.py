"""Idempotency: doing a thing once, however often it is asked for."""

from standfast.idempotency.barrier import Gate, barrier

__all__ = ["Gate", "barrier"]

"""The verbs of `app` and `tx`: one-line doors to what lives in the patterns."""

from standfast.doors.app import AppDoors
from standfast.doors.transaction import Transaction

__all__ = ["AppDoors", "Transaction"]

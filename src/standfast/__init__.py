"""Standfast: distributed patterns that hold."""

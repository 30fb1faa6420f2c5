"""Resilience policies that stand alone: no app, no database, no broker needed."""

"""The agency's tables, and Standfast's."""

"""``manage.py standfast``."""

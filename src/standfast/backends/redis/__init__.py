"""What Standfast keeps in Redis (``pip install standfast[redis]``)."""

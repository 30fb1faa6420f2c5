"""A travel agency on Django: a trip is a flight, a room and a car, or nothing of all that.

In three processes, each of which may be killed::

    export TRAVEL_DATABASE=travel.sqlite3   # or postgresql://user@host/travel
    python -m examples.travel_django.manage migrate
    python -m examples.travel_django.web &
    python -m examples.travel_django.manage standfast run &
    python -m examples.travel_django.manage standfast run &
"""

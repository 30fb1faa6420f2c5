"""A travel agency on FastAPI, SQLAlchemy and PostgreSQL: flight, hotel, car, payment, or nothing.

A trip is booked over HTTP. Its row, written by SQLAlchemy, and its saga are committed together. The
saga books flight, hotel and car at once, then pays, or cancels what was booked. Workers may be
killed at any time.

Read it in this order:

| file | what it tells |
|---|---|
| `trip.py` | what a traveller asks for |
| `saga.py` | `BookTrip`: book three things at once, then pay, or cancel everything |
| `bookings.py` | the table of the agency, by SQLAlchemy |
| `app.py` | the app of web server and workers |
| `api.py` | the web server: book, look, follow the progress |
| `partners.py` | airline, hotels, cars and bank, as one more web server, with the barrier in it |

Run it, each in a terminal of its own:

    export TRAVEL_DATABASE=postgresql://localhost/travel PARTNERS=http://127.0.0.1:8001
    PARTNERS_DATABASE=sqlite:///partners.db uvicorn examples.travel.partners:api --port 8001
    uvicorn examples.travel.api:api --port 8000
    standfast run -a examples.travel.app:travel
    standfast run -a examples.travel.app:travel

    curl -X POST localhost:8000/bookings -H 'Content-Type: application/json' \\
        -d '{"id": "7", "traveller": "Ann", "city": "Lisbon", "cents": 90000}'
    curl -N localhost:8000/bookings/7/progress
"""

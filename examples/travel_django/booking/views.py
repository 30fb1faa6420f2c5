"""What travellers ask over HTTP."""

import json
from collections import Counter

from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, JsonResponse

from examples.travel_django.booking.models import Booking, Trip
from examples.travel_django.booking.sagas import BookTrip
from standfast.integrations.django import app
from standfast.integrations.django.models import Instance


def trips(request: HttpRequest) -> HttpResponse:
    """Book a trip (POST), or count how the sagas of all trips stand (GET)."""
    if request.method == "GET":
        return JsonResponse(Counter(Instance.objects.values_list("status", flat=True)))
    if request.method != "POST":
        return HttpResponseNotAllowed(["GET", "POST"])
    wish = json.loads(request.body)
    with (
        transaction.atomic()
    ):  # a trip without its saga would be forgotten, one twice be paid twice
        made = Trip.objects.create(traveller=wish["traveller"], destination=wish["destination"])
        app.adopt().start(BookTrip, made.pk, key=str(made.pk))
    return JsonResponse({"trip": made.pk}, status=202)


def trip(request: HttpRequest, number: int) -> HttpResponse:
    """How a trip stands, and what is booked for it."""
    found = Trip.objects.filter(pk=number).first()
    if found is None:
        raise Http404
    booked = Booking.objects.filter(trip=found).order_by("pk")
    return JsonResponse(
        {
            "status": Instance.objects.get(name="book-trip", key=str(number)).status,
            "confirmed": found.confirmed,
            "booked": [one.what for one in booked if not one.cancelled],
            "cancelled": [one.what for one in booked if one.cancelled],
        }
    )

from asgiref.sync import sync_to_async
from django.db import transaction
from django.http import JsonResponse

from standfast.integrations.django import app

from .models import Trip
from .sagas import BookTrip


def book(request, key):
    Trip.objects.create(key=key)
    handle = app.adopt().start(BookTrip, key, key=key)
    return JsonResponse({"saga": str(handle.id)}, status=202)


def book_and_fail(request, key):
    book(request, key)
    raise ValueError("no luck")


@transaction.non_atomic_requests
async def book_async(request, key):
    def write():
        with transaction.atomic():
            return book(request, key)

    return await sync_to_async(write)()


@transaction.non_atomic_requests
async def start(request, key):
    handle = await app.start(BookTrip, key, key=key)
    result = await handle.result(timeout=60)
    return JsonResponse({"updated": result[BookTrip.book]})


def start_blocking(request, key):
    Trip.objects.create(key=key)
    app.blocking.start(BookTrip, key, key=key)
    raise AssertionError("this start commits whatever becomes of the row")

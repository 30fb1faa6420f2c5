"""Standfast as a Django app: put ``"standfast.integrations.django"`` into ``INSTALLED_APPS``.

`app` is the `Standfast` app of the project. Its database is one of ``settings.DATABASES``, and what
is added to it stands in a module ``sagas`` of each installed app, as models and admin do::

    # shop/sagas.py
    from standfast.integrations.django import app

    app.add(BookTrip())

    # shop/views.py
    with transaction.atomic():
        Trip.objects.create(...)
        app.adopt().start(BookTrip, trip)

``manage.py standfast …`` is the whole command line, with this app. ``settings.STANDFAST`` may say
more: ``DATABASE``, the alias (``"default"``); ``SAGAS``, more modules to import; ``OPTIONS``, of
the database, such as ``{"max_size": 20}``.
"""

from standfast.integrations.django.asgi import with_lifespan
from standfast.integrations.django.current import app
from standfast.integrations.django.threads import database_sync_to_async

__all__ = ["app", "database_sync_to_async", "with_lifespan"]

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django_application = get_asgi_application()

from standfast.integrations.django import with_lifespan  # noqa: E402

application = with_lifespan(django_application, work=True)

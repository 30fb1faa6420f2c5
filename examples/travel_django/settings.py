"""The project's settings. The database is named by TRAVEL_DATABASE: a file, or a URL."""

import os
from typing import Any
from urllib.parse import unquote, urlsplit


def _database(named: str) -> dict[str, Any]:
    if not named.startswith("postgresql://"):
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": named,
            "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 30},
        }
    url = urlsplit(named)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": url.hostname,
        "PORT": url.port or "",
        "NAME": url.path.lstrip("/"),
        "USER": unquote(url.username or ""),
        "PASSWORD": unquote(url.password or ""),
    }


DATABASES = {"default": _database(os.environ.get("TRAVEL_DATABASE", "travel.sqlite3"))}
INSTALLED_APPS = ["standfast.integrations.django", "examples.travel_django.booking"]
ROOT_URLCONF = "examples.travel_django.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SECRET_KEY = os.environ.get("TRAVEL_SECRET", "of an example")
ALLOWED_HOSTS = ["127.0.0.1"]
USE_TZ = True

"""A project on the database that SHOP_DATABASE names, by the driver that SHOP_DRIVER does."""

import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

BASE_DIR = Path(__file__).parents[1]

if os.environ.get("SHOP_DRIVER") == "psycopg2":
    sys.modules["psycopg"] = None  # type: ignore[assignment]  # Django takes what it finds first


def database(name=""):
    url = os.environ["SHOP_DATABASE"]
    if url.startswith("sqlite:"):
        in_tests = (
            {} if "in-memory" in url else {"TEST": {"NAME": BASE_DIR / f"tests{name}.sqlite3"}}
        )
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": BASE_DIR / f"shop{name}.sqlite3",
            "OPTIONS": {"transaction_mode": "IMMEDIATE"},
            **in_tests,
        }
    parts = urlsplit(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": parts.hostname,
        "PORT": parts.port,
        "NAME": parts.path.lstrip("/") + name,
        "USER": parts.username,
        "PASSWORD": parts.password or "",
    }


DATABASES = {
    "default": {**database(), "ATOMIC_REQUESTS": True},
    "other": database("_other"),
    "nowhere": {},
}
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "standfast.integrations.django",
    "shop",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
SECRET_KEY = "of a test"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
if "SHOP_LOGS" in os.environ:
    LOGGING = {
        "version": 1,
        "formatters": {"mine": {"format": os.environ["SHOP_LOGS"]}},
        "handlers": {"mine": {"class": "logging.StreamHandler", "formatter": "mine"}},
        "root": {"handlers": ["mine"], "level": "INFO"},
    }

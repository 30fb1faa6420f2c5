"""What the tests of the project ask its database."""

import os
import uuid

from django.db import connection

from standfast.integrations.django.models import Instance

ON_POSTGRES = connection.vendor == "postgresql"
IN_MEMORY = "in-memory" in os.environ["SHOP_DATABASE"]
INSTANCES = "standfast.instances" if ON_POSTGRES else "standfast_instances"
MAIL = "standfast.mail" if ON_POSTGRES else "standfast_mail"


def new_key():
    return uuid.uuid4().hex


def is_there(key):
    return Instance.objects.filter(key=key).exists()


def mails():
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {MAIL}")
        return cursor.fetchone()[0]

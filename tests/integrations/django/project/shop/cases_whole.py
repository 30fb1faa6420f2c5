"""What Django does to a whole database. Run by ../../test_project.py, on each database."""

from django.core.management import call_command
from django.db import connection, transaction
from django.test import TestCase, TransactionTestCase

from shop.looking import IN_MEMORY, INSTANCES, new_key
from shop.models import Trip
from shop.sagas import Approve, BookTrip
from standfast import BranchKey, barrier
from standfast.integrations.django import app
from standfast.integrations.django.models import Instance


def count(table):
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {INSTANCES.replace('instances', table)}")
        return cursor.fetchone()[0]


class BetweenTests(TransactionTestCase):
    """Each test begins without sagas: the same key, as the same primary key of a row."""

    reset_sequences = True

    def start(self, input):
        with transaction.atomic():
            key = str(Trip.objects.create(key=new_key()).pk)
            tx = app.adopt()
            handle = tx.start(BookTrip, input, key=key)
            self.assertTrue(handle.created)
            tx.signal(tx.start(Approve, input, key=key), "approved", "yes")
            with barrier(tx, BranchKey("the same")) as gate:
                self.assertTrue(gate.first)
        if not IN_MEMORY:  # what is open meanwhile is in nobody's way, also at the end of the run
            self.assertEqual(app.blocking.handle(handle.id).status(), "running")

    def test_one(self):
        self.start("one")

    def test_another(self):
        self.start("another")


class Flush(TransactionTestCase):
    def test_it_empties_the_tables_and_keeps_what_was_applied(self):
        with transaction.atomic():
            app.adopt().start(BookTrip, "x", key="x")
        applied = count("schema_migrations")
        self.assertTrue(Instance.objects.exists() and applied)
        call_command("flush", interactive=False, verbosity=0)
        self.assertEqual([count(one) for one in ("instances", "journal", "mail")], [0, 0, 0])
        self.assertEqual(count("schema_migrations"), applied)
        call_command("flush", interactive=False, verbosity=0, database="other")

    databases = ("default", "other")


class Cloned(TestCase):
    """In a process of ``--parallel``, say."""

    def test_a_saga_of_a_test_that_is_rolled_back(self):
        self.assertTrue(app.adopt().start(BookTrip, "x", key="x").created)

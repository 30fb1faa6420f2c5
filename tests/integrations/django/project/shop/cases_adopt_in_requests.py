"""Transactions adopted in views, threads, async code and tests. Run by ../../test_adopting.py."""

import asyncio
import threading
from unittest import skipIf

from asgiref.sync import sync_to_async
from django.db import connection, transaction
from django.test import TestCase, TransactionTestCase

from shop.looking import IN_MEMORY, is_there, new_key
from shop.models import Trip
from shop.sagas import BookTrip
from standfast.errors import ConfigurationError, StoreError
from standfast.integrations.django import app
from standfast.integrations.django.models import Instance


class OfRequests(TransactionTestCase):
    def test_atomic_requests(self):
        key = new_key()
        self.assertEqual(self.client.get(f"/book/{key}").status_code, 202)
        self.assertTrue(is_there(key))
        key = new_key()
        with self.assertRaises(ValueError):
            self.client.get(f"/book-and-fail/{key}")
        self.assertFalse(is_there(key) or Trip.objects.filter(key=key).exists())

    async def test_async_views(self):
        key = new_key()
        self.assertEqual((await self.async_client.get(f"/book-async/{key}")).status_code, 202)
        self.assertTrue(await sync_to_async(is_there)(key))

    async def test_async_code_is_told_what_to_do(self):
        with self.assertRaisesRegex(ConfigurationError, "sync_to_async"):
            app.adopt()
        tx = await sync_to_async(self.adopted)()
        self.assertEqual(tx, "ok")

    def adopted(self):
        with transaction.atomic():
            tx = app.adopt()
            loop_told = []

            async def inside():
                try:
                    tx.execute("SELECT 1")
                except ConfigurationError as error:
                    loop_told.append(str(error))

            asyncio.run(inside())
            self.assertIn("sync_to_async", loop_told[0])
            return tx.fetch_value("SELECT $1 || ''", "ok")

    @skipIf(IN_MEMORY, "SQLite's shared cache has no queue of writers")
    def test_threads_have_connections_of_their_own(self):
        keys = [new_key() for _ in range(4)]
        made = []

        def book(key):
            try:
                with transaction.atomic():
                    made.append(app.adopt().start(BookTrip, key, key=key).created)
            finally:
                connection.close()

        threads = [threading.Thread(target=book, args=[key]) for key in keys]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(made, [True] * 4)
        self.assertTrue(all(map(is_there, keys)))


class InTestCase(TestCase):
    """Inside the transaction of a test, which never commits."""

    def test_what_is_started_is_seen_in_the_test(self):
        key = new_key()
        with self.captureOnCommitCallbacks(execute=True) as callbacks, transaction.atomic():
            handle = app.adopt().start(BookTrip, key, key=key)
            told = []
            app.adopt().on_commit(lambda: told.append(1))
        self.assertEqual(Instance.objects.get(key=key).id, handle.id)
        self.assertEqual(told, [1])
        self.assertTrue(callbacks)

    def test_without_a_block_of_its_own(self):
        key = new_key()
        app.adopt().start(BookTrip, key, key=key)
        self.assertTrue(is_there(key))

    def test_views(self):
        key = new_key()
        self.assertEqual(self.client.get(f"/book/{key}").status_code, 202)
        self.assertTrue(is_there(key))
        key = new_key()
        with self.assertRaises(ValueError):
            self.client.get(f"/book-and-fail/{key}")
        self.assertFalse(is_there(key))

    def test_durable(self):
        with transaction.atomic(durable=True):
            app.adopt().start(BookTrip, "x", key=new_key())

    def test_after_the_end_is_told_here_too(self):
        with transaction.atomic():
            tx = app.adopt()
        with self.assertRaisesRegex(StoreError, "is over"):
            tx.execute("SELECT 1")

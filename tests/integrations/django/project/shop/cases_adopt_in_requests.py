"""Transactions adopted in views, threads, async code and tests. Run by ../../test_adopting.py."""

import asyncio
import threading
from unittest import skipIf

from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection, transaction
from django.test import TestCase, TransactionTestCase

from shop.looking import IN_MEMORY, is_there, mails, new_key
from shop.models import Trip
from shop.sagas import Approve, BookTrip
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


@skipIf(IN_MEMORY, "nobody else sees a database in memory")
class AppBlocking(TransactionTestCase):
    """What commits by itself is refused in a block that nobody adopted, and reading isn't."""

    def writes(self, handle):
        return {
            "start": lambda: app.blocking.start(BookTrip, "x", key=new_key()),
            "signal": lambda: handle.signal("approved", "yes"),
            "cancel": lambda: handle.cancel("no"),
            "begin a transaction": lambda: app.blocking.transaction().__enter__(),
            "run sagas": lambda: app.blocking.running().__enter__(),
            "send": lambda: app.blocking.operations.cancel(handle),
        }

    def test_in_a_block(self):
        key = new_key()
        handle = app.blocking.start(Approve, "x", key=key)
        app.blocking.close()
        before = mails(), Instance.objects.count()
        with transaction.atomic():
            Trip.objects.create(key=key)
            self.assertEqual(app.blocking.saga(Approve, key).status(), "running")
            for act in self.writes(handle).values():
                with self.assertRaisesRegex(ConfigurationError, r"app\.adopt\(\)|run them after"):
                    act()
            self.assertEqual(handle.status(), "running")
            self.assertTrue(app.adopt().start(BookTrip, key, key=key).created)
        self.assertEqual((mails(), Instance.objects.count()), (before[0], before[1] + 1))
        with app.blocking.transaction() as tx:
            tx.signal(handle, "approved", "yes")
        handle.cancel("no")
        with transaction.atomic("other"):
            app.blocking.start(BookTrip, "x", key=new_key())

    databases = ("default", "other")

    def test_in_a_view(self):
        with self.assertRaisesRegex(ConfigurationError, r"can't start a saga.*app\.adopt\(\)\.sta"):
            self.client.get(f"/start-blocking/{new_key()}")


class AsyncDoors(TransactionTestCase):
    """``app.start(…)`` in sync code would start nothing."""

    def test_in_sync_code(self):
        for name in ("start", "saga"):
            with self.assertRaisesRegex(ConfigurationError, rf"app\.blocking\.{name}\(…\), or"):
                getattr(app, name)(BookTrip, "x")

    def test_where_a_loop_runs(self):
        taken = app.start
        self.assertTrue(asyncio.iscoroutinefunction(taken))

        async def start(taken):
            await (taken or app.start)(BookTrip, "x")

        for one in (None, taken):
            with self.assertRaisesRegex(ConfigurationError, "isn't open"):
                async_to_sync(start)(one)


class InTestCase(TestCase):
    """Inside the transaction of a test, which never commits."""

    @skipIf(IN_MEMORY, "nobody else sees a database in memory")
    def test_app_blocking_doesnt_commit_for_real(self):
        self.addCleanup(app.blocking.close)
        with self.assertRaisesRegex(ConfigurationError, "use a TransactionTestCase"):
            app.blocking.start(BookTrip, "x", key=new_key())
        with self.assertRaisesRegex(ConfigurationError, "a TransactionTestCase doesn't"):
            app.blocking.running().__enter__()

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

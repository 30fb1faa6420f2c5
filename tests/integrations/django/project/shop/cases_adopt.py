"""Django's transactions, adopted. Run by ../../test_adopting.py, on each database and driver."""

import asyncio
import threading
import uuid
from unittest import mock, skipIf

from django.db import IntegrityError, connection, connections, transaction
from django.test import TransactionTestCase
from django.test.utils import CaptureQueriesContext

from shop.looking import IN_MEMORY, INSTANCES, ON_POSTGRES, is_there, mails, new_key
from shop.models import Trip
from shop.sagas import Approve, BookTrip
from standfast import BranchKey, Standfast, barrier
from standfast.errors import (
    ConfigurationError,
    ConstraintViolated,
    MigrationNeeded,
    SagaConflict,
    SagaNotFound,
    StoreError,
    Unsupported,
)
from standfast.integrations.django import app
from standfast.integrations.django.models import Instance
from standfast.ports.leases import LeaseStore


class Cancelled(Exception):
    pass


class Starting(TransactionTestCase):
    def test_a_row_and_a_saga_commit_together(self):
        key = new_key()
        with transaction.atomic():
            Trip.objects.create(key=key)
            handle = app.adopt().start(BookTrip, key, key=key)
            self.assertTrue(handle.created)
        self.assertTrue(Trip.objects.filter(key=key).exists())
        row = Instance.objects.get(key=key)
        self.assertEqual(row.id, handle.id)
        self.assertEqual((row.status, row.name), ("running", "book-trip"))

    def test_a_rollback_takes_both(self):
        key = new_key()
        with self.assertRaises(Cancelled), transaction.atomic():
            Trip.objects.create(key=key)
            app.adopt().start(BookTrip, key, key=key)
            raise Cancelled
        self.assertFalse(Trip.objects.filter(key=key).exists() or is_there(key))

    def test_a_nested_block_that_is_rolled_back_takes_its_own_along(self):
        kept, dropped = new_key(), new_key()
        with transaction.atomic():
            tx = app.adopt()
            tx.start(BookTrip, kept, key=kept)
            with self.assertRaises(Cancelled), transaction.atomic():
                tx.start(BookTrip, dropped, key=dropped)
                app.adopt().start(BookTrip, dropped, key=dropped)
                raise Cancelled
            self.assertFalse(tx.start(BookTrip, kept, key=kept).created)
        self.assertTrue(is_there(kept))
        self.assertFalse(is_there(dropped))

    def test_a_barrier_whose_body_raises_has_done_nothing_though_it_is_caught(self):
        key, branch = new_key(), BranchKey(new_key())
        told = []
        with transaction.atomic():
            tx = app.adopt()
            for _ in range(2):
                with self.assertRaises(Cancelled), barrier(tx, branch) as gate:
                    self.assertTrue(gate.first)
                    Trip.objects.create(key=key)
                    tx.start(BookTrip, key, key=key)
                    tx.on_commit(lambda: told.append("undone"))
                    raise Cancelled
            with barrier(tx, branch) as gate:
                gate.result = {"n": 1}
            with barrier(tx, branch) as gate:
                self.assertEqual((gate.first, gate.result), (False, {"n": 1}))
            tx.on_commit(lambda: told.append("kept"))
        self.assertFalse(Trip.objects.filter(key=key).exists() or is_there(key))
        self.assertEqual(told, ["kept"])

    def test_a_savepoint_takes_along_what_django_was_to_call_after_the_commit(self):
        told = []
        with transaction.atomic():
            tx = app.adopt()
            with self.assertRaises(Cancelled), tx.savepoint():
                transaction.on_commit(lambda: told.append("undone"))
                raise Cancelled
            with tx.savepoint():
                transaction.on_commit(lambda: told.append("kept"))
        self.assertEqual(told, ["kept"])

    def test_one_statement_is_enough_and_djangos_log_has_it(self):
        key = new_key()
        with transaction.atomic():
            tx = app.adopt()
            with CaptureQueriesContext(connection) as captured:
                tx.start(BookTrip, key, key=key)
        self.assertEqual(len(captured), 1)
        self.assertIn("standfast", captured[0]["sql"])
        self.assertIn(key, captured[0]["sql"])

    def test_a_wrapper_sees_our_statements(self):
        seen = []

        def look(execute, sql, params, many, context):
            seen.append(sql)
            return execute(sql, params, many, context)

        with transaction.atomic(), connection.execute_wrapper(look):
            app.adopt().fetch_value("SELECT $1 || $1", "a")
        self.assertEqual(len(seen), 1)

    def test_starting_again(self):
        key = new_key()
        for created in (True, False):
            with transaction.atomic():
                self.assertEqual(app.adopt().start(BookTrip, key, key=key).created, created)
        with self.assertRaises(SagaConflict), transaction.atomic():
            app.adopt().start(BookTrip, "another", key=key)

    def test_signal_and_cancel(self):
        with transaction.atomic():
            one = app.adopt().start(Approve, "x", key=new_key())
        before = mails()
        with self.assertRaises(Cancelled), transaction.atomic():
            app.adopt().signal(one, "approved", "yes")
            app.adopt().cancel(one, "no")
            raise Cancelled
        self.assertEqual(mails(), before)
        with transaction.atomic():
            app.adopt().signal(one, "approved", "yes")
            app.adopt().cancel(str(one.id), "no")
        self.assertEqual(mails(), before + 2)
        with self.assertRaises(SagaNotFound), transaction.atomic():
            app.adopt().signal(uuid.uuid4(), "approved", "yes")

    def test_durable_blocks(self):
        key = new_key()
        with transaction.atomic(durable=True):
            app.adopt().start(BookTrip, key, key=key)
        self.assertTrue(is_there(key))

    def test_the_alias_may_be_named(self):
        key = new_key()
        with transaction.atomic("default"):
            app.adopt("default").start(BookTrip, key, key=key)
        self.assertTrue(is_there(key))

    def test_manual_transactions(self):
        key = new_key()
        transaction.set_autocommit(False)
        try:
            tx = app.adopt()
            tx.start(BookTrip, key, key=key)
            with self.assertRaisesRegex(Unsupported, "driver tells nobody"):
                tx.on_commit(print)
            transaction.rollback()
            self.assertFalse(is_there(key))
            app.adopt().start(BookTrip, key, key=key)
            transaction.commit()
        finally:
            transaction.set_autocommit(True)
        self.assertTrue(is_there(key))
        with self.assertRaisesRegex(StoreError, "is over"):
            tx.execute("SELECT 1")


class AfterTheCommit(TransactionTestCase):
    def test_callbacks_run_after_it_in_order(self):
        told = []
        with self.assertLogs("standfast", "ERROR") as logged, transaction.atomic():
            tx = app.adopt()
            tx.on_commit(lambda: told.append(1))
            with transaction.atomic():
                app.adopt().on_commit(lambda: told.append(2))
            with self.assertRaises(Cancelled), transaction.atomic():
                app.adopt().on_commit(lambda: told.append("never"))
                raise Cancelled
            tx.on_commit(lambda: 1 / 0)
            tx.on_commit(lambda: told.append(3))
            self.assertEqual(told, [])
        self.assertIn("ZeroDivisionError", logged.output[0])
        self.assertEqual(told, [1, 2, 3])

    @skipIf(IN_MEMORY, "nobody else sees a database in memory")
    def test_a_worker_of_this_process_is_told_at_once(self):
        begun, ended = threading.Event(), threading.Event()
        results = []
        store = app.sagas.store
        ask = store.next_wake

        async def next_wake(kinds):
            answer = await ask(kinds)
            begun.set()
            return answer

        async def work():
            # The store tells it nothing, and so seldom does it look by itself that only a hint of
            # Django's commit can have woken it.
            async with app.running(poll=600, drain=5):
                await asyncio.to_thread(ended.wait)
                results.append(await app.handle(id).result(timeout=60))

        leases = app.database.port(LeaseStore)  # on SQLite it tells of any commit too
        for port, method in ((store, "on_due"), (leases, "on_freed")):
            self.enterContext(mock.patch.object(port, method, return_value=lambda: None))
        self.enterContext(mock.patch.object(store, "next_wake", next_wake))
        worker = threading.Thread(target=asyncio.run, args=[work()])
        worker.start()
        try:
            self.assertTrue(begun.wait(60))
            key = new_key()
            with transaction.atomic():
                Trip.objects.create(key=key)
                id = app.adopt().start(BookTrip, key, key=key).id
        finally:
            ended.set()
            worker.join()
        self.assertEqual(results[0][BookTrip.book], 1)
        self.assertTrue(Trip.objects.get(key=key).booked)


class Refused(TransactionTestCase):
    databases = ("default", "other")

    def test_autocommit(self):
        with self.assertRaisesRegex(ConfigurationError, r"no transaction is open.*ATOMIC_REQ"):
            app.adopt()

    def test_another_alias(self):
        with transaction.atomic("other"):
            with self.assertRaisesRegex(ConfigurationError, "keeps its data in"):
                app.adopt("other")
            with self.assertRaisesRegex(ConfigurationError, "no transaction is open"):
                app.adopt()

    @skipIf(IN_MEMORY, "an app of one's own needs a file")
    def test_another_database_with_an_app_of_ones_own(self):
        own = Standfast(app.database.url if not ON_POSTGRES else _dsn("default"))
        with transaction.atomic("other"), self.assertRaisesRegex(ConfigurationError, "'other'"):
            own.adopt("other")
        key = new_key()
        own.add(BookTrip())
        with transaction.atomic():
            own.adopt().start(BookTrip, key, key=key)
        self.assertTrue(is_there(key))

    def test_another_kind_of_database(self):
        url = "sqlite:///shop.db" if ON_POSTGRES else "postgresql://u@h/d"
        with transaction.atomic(), self.assertRaisesRegex(ConfigurationError, "a transaction of"):
            Standfast(url).adopt()

    def test_an_app_that_doesnt_follow_into_the_tests(self):
        name = connection.settings_dict["NAME"]
        url = _dsn("default").replace(name, "shop") if ON_POSTGRES else "sqlite:///shop.db"
        with (
            transaction.atomic(),
            self.assertRaisesRegex(ConfigurationError, "standfast.integrations.django"),
        ):
            Standfast(url).adopt()

    def test_an_alias_that_isnt_there(self):
        with self.assertRaisesRegex(ConfigurationError, "elsewhere.*settings.DATABASES"):
            app.adopt("elsewhere")

    def test_what_isnt_supported(self):
        with self.assertRaisesRegex(ConfigurationError, "PostgreSQL or SQLite"):
            Standfast("memory://").adopt("nowhere")

    def test_after_the_end(self):
        with transaction.atomic():
            tx = app.adopt()
        with self.assertRaisesRegex(StoreError, "is over"):
            tx.start(BookTrip, "x", key=new_key())
        with self.assertRaisesRegex(ConfigurationError, "after the end"):
            tx.on_commit(print)
        with transaction.atomic(), self.assertRaisesRegex(StoreError, "is over"):
            tx.execute("SELECT 1")


def _dsn(alias):
    given = connections[alias].settings_dict
    return f"postgresql://{given['USER']}@{given['HOST']}:{given['PORT']}/{given['NAME']}"


class Errors(TransactionTestCase):
    def test_of_constraints(self):
        key = new_key()
        Trip.objects.create(key=key)
        with self.assertRaises(ConstraintViolated), transaction.atomic():
            app.adopt().execute("INSERT INTO shop_trip (key, booked) VALUES ($1, $2)", key, False)
        # What goes by the ORM is Django's own.
        with self.assertRaises(IntegrityError), transaction.atomic():
            app.adopt()
            Trip.objects.create(key=key)

    def test_of_missing_tables(self):
        with (
            self.assertRaisesRegex(MigrationNeeded, "standfast migrate"),
            transaction.atomic(),
        ):
            tx = app.adopt()
            tx.execute(f"DROP TABLE {INSTANCES}")
            tx.start(BookTrip, "x", key=new_key())

    def test_of_statements(self):
        for sql in ("SELEC 1", "SELECT * FROM nothing_of_that_name"):
            with self.assertRaises(StoreError) as caught, transaction.atomic():
                app.adopt().fetch(sql)
            self.assertNotIsInstance(caught.exception, MigrationNeeded)
        with self.assertRaisesRegex(StoreError, r"\$2"), transaction.atomic():
            app.adopt().fetch("SELECT $1 || $2", "a")
        with self.assertRaisesRegex(StoreError, "COMMIT"), transaction.atomic():
            app.adopt().execute("COMMIT")

    def test_after_one_that_was_swallowed(self):
        key = new_key()
        Trip.objects.create(key=key)
        with self.assertRaises(StoreError), transaction.atomic():
            with self.assertRaises(IntegrityError), transaction.atomic(savepoint=False):
                Trip.objects.create(key=key)
            app.adopt().start(BookTrip, key, key=key)
        self.assertFalse(is_there(key))

    def test_in_another_thread(self):
        told = []

        def use(tx):
            try:
                tx.execute("SELECT 1")
            except StoreError as error:
                told.append(str(error))

        with transaction.atomic():
            thread = threading.Thread(target=use, args=[app.adopt()])
            thread.start()
            thread.join()
        self.assertIn("thread", told[0])


class Sql(TransactionTestCase):
    def ask(self, sql, *args):
        with transaction.atomic():
            return app.adopt().fetch_value(sql, *args)

    def test_percent_signs(self):
        self.assertEqual(self.ask("SELECT '50%'"), "50%")
        self.assertEqual(self.ask("SELECT '50% of %s' || $1", "%d"), "50% of %s%d")
        self.assertEqual(self.ask("SELECT 7 % 4"), 3)
        self.assertTrue(self.ask("SELECT $1 LIKE '%b%'", "abc"))

    def test_json(self):
        if ON_POSTGRES:
            self.assertTrue(self.ask("""SELECT '{"a": 1}'::jsonb ? 'a'"""))
            self.assertTrue(self.ask("""SELECT '{"a": 1}'::jsonb ?| array['b', 'a']"""))
            self.assertTrue(self.ask("""SELECT '{"a": 1}'::jsonb @> $1::jsonb""", '{"a": 1}'))
        self.assertEqual(
            self.ask("""SELECT '{"a": "x"}' ->> 'a'""") if not ON_POSTGRES else "x", "x"
        )
        self.assertEqual(self.ask("SELECT ':name' || $1", "x"), ":namex")

    def test_rows(self):
        key = new_key()
        with transaction.atomic():
            tx = app.adopt()
            sql = "INSERT INTO shop_trip (key, booked) VALUES ($1, $2)"
            self.assertEqual(tx.execute(sql, key, True), 1)
            where = "WHERE key IN (SELECT key FROM chosen)"
            sql = f"WITH chosen AS (SELECT $1 AS key) UPDATE shop_trip SET booked = $2 {where}"
            self.assertEqual(tx.execute(sql, key, True), 1)
            self.assertEqual(tx.execute(f"{sql} RETURNING id", key, True), 1)
            row = tx.fetch_one("SELECT key, id FROM shop_trip WHERE key = $1", key)
            self.assertEqual((row["key"], row[0]), (key, key))
            self.assertEqual(
                [one[0] for one in tx.fetch("SELECT key FROM shop_trip WHERE key = $1", key)],
                [key],
            )
            self.assertIsNone(tx.fetch_one("SELECT 1 FROM shop_trip WHERE key = 'none'"))
            self.assertEqual(tx.dialect, connection.vendor)

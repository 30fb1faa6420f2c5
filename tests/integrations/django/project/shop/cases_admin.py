"""Sagas in the admin. Run by ../../test_project.py, on each database and driver."""

import uuid
from concurrent.futures import ThreadPoolExecutor

from asgiref.sync import async_to_sync
from django.contrib.auth.models import Permission, User
from django.db import connection, transaction
from django.test import TransactionTestCase
from django.urls import reverse

from shop.models import Trip
from shop.sagas import Approve, BookTrip
from standfast.errors import ConfigurationError
from standfast.integrations.django import app
from standfast.integrations.django.models import Instance

LIST = "admin:standfast_instance_changelist"


class InTheAdmin(TransactionTestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.addClassCleanup(lambda: app.blocking.close())  # before the test database goes

    def setUp(self):
        self.client.force_login(User.objects.create_superuser("ann"))
        self.key = uuid.uuid4().hex
        with transaction.atomic():
            Trip.objects.create(key=self.key)
            tx = app.adopt()
            self.handle = tx.start(BookTrip, self.key, key=self.key)
            tx.start(Approve, "<b>", key=f"approve-{self.key}")

    def page(self, name, /, *args, **query):
        answer = self.client.get(reverse(name, args=args), query)
        self.assertEqual(answer.status_code, 200)
        return answer.content.decode()

    def test_the_list(self):
        self.assertIn(reverse(LIST), self.page("admin:index"))
        page = self.page(LIST)
        self.assertIn(self.key, page)
        self.assertIn("book-trip", page)
        page = self.page(LIST, name="approve")
        self.assertIn(f"approve-{self.key}", page)
        self.assertNotIn(f">{self.key}<", page)
        self.assertNotIn(self.key, self.page(LIST, status__exact="parked"))
        id = str(self.handle.id)
        for found in (self.key, id, id[-8:], id[-8:].upper(), f"book-trip/{self.key}"):
            page = self.page(LIST, q=found)
            self.assertIn(str(self.handle.id), page)
            self.assertNotIn(f"approve-{self.key}", page)
        self.assertIn("0 sagas", self.page(LIST, q="nothing"))

    def test_one_of_them(self):
        page = self.page("admin:standfast_instance_change", self.handle.id)
        self.assertIn("<pre>", page)
        self.assertIn("started", page)
        self.assertIn("running", page)
        self.assertNotIn('name="_save"', page)
        approve = Instance.objects.get(key=f"approve-{self.key}")
        page = self.page("admin:standfast_instance_change", approve.id)
        self.assertIn("&lt;b&gt;", page)
        self.assertNotIn("<b>", page)

    def test_stories_at_once(self):
        """Each page in a thread of its own, as a server has them, and the app open meanwhile."""

        def look(_):
            try:
                return self.page("admin:standfast_instance_change", self.handle.id)
            finally:
                connection.close()

        for _ in range(2):
            with ThreadPoolExecutor(4) as threads:
                for page in threads.map(look, range(4)):
                    self.assertIn("book-trip", page)
                    self.assertIn("running", page)
                    self.assertNotIn("event loop", page)
            self.assertEqual(app.blocking.handle(self.handle.id).status(), "running")

    def test_a_story_after_sync_code_has_used_the_app(self):
        self.assertEqual(app.blocking.handle(self.handle.id).status(), "running")
        page = self.page("admin:standfast_instance_change", self.handle.id)
        self.assertIn("started", page)
        self.assertNotIn("event loop", page)

    def test_nothing_can_be_changed(self):
        for name, args in (("add", ()), ("delete", (self.handle.id,))):
            answer = self.client.get(reverse(f"admin:standfast_instance_{name}", args=args))
            self.assertEqual(answer.status_code, 403)
        url = reverse("admin:standfast_instance_change", args=[self.handle.id])
        self.assertEqual(self.client.post(url, {"status": "completed"}).status_code, 403)
        self.assertEqual(Instance.objects.get(id=self.handle.id).status, "running")

    def test_nothing_can_be_written_through_the_model(self):
        one, some = Instance.objects.get(id=self.handle.id), Instance.objects.filter(key=self.key)
        self.assertEqual(
            Instance.objects.using("default").only("key").get(id=one.id).name, one.name
        )
        one.refresh_from_db()
        others = Instance.objects, Instance._base_manager, some
        acts = [one.save, one.delete, lambda: async_to_sync(one.asave)()]
        for each in others:
            acts += [
                lambda each=each: each.create(key="x"),
                lambda each=each: each.get_or_create(key="x"),
                lambda each=each: each.update_or_create(key="x", defaults={"status": "x"}),
                lambda each=each: each.bulk_create([Instance()]),
                lambda each=each: each.bulk_update([one], ["status"]),
                lambda each=each: each.all().update(status="completed"),
                lambda each=each: each.all().delete(),
                lambda each=each: async_to_sync(each.all().adelete)(),
            ]
        for act in acts:
            with self.assertRaisesRegex(ConfigurationError, "app.operations.*standfast sagas"):
                act()
        self.assertEqual(some.count(), 1)
        self.assertEqual(some.get().status, "running")

    def test_who_may_look(self):
        user = User.objects.create_user("bob", is_staff=True)
        self.client.force_login(user)
        self.assertEqual(self.client.get(reverse(LIST)).status_code, 403)
        user.user_permissions.add(Permission.objects.get(codename="view_instance"))
        self.client.force_login(user)
        self.assertIn(self.key, self.page(LIST))

    def test_one_that_isnt_there(self):
        url = reverse("admin:standfast_instance_change", args=[uuid.uuid4()])
        self.assertEqual(self.client.get(url).status_code, 302)
        url = reverse("admin:standfast_instance_change", args=["no-id"])
        self.assertEqual(self.client.get(url).status_code, 302)

    def test_a_finished_one(self):
        with app.blocking.running(drain=5):
            app.blocking.handle(self.handle.id).result(timeout=60)
        page = self.page("admin:standfast_instance_change", self.handle.id)
        self.assertIn("completed", page)

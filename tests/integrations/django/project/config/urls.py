from django.contrib import admin
from django.urls import path

from shop import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("book/<str:key>", views.book),
    path("book-and-fail/<str:key>", views.book_and_fail),
    path("book-async/<str:key>", views.book_async),
    path("start-blocking/<str:key>", views.start_blocking),
    path("start/<str:key>", views.start),
]

"""What the agency answers to."""

from django.urls import path

from examples.travel_django.booking import views

urlpatterns = [
    path("trips", views.trips),
    path("trips/<int:number>", views.trip),
]

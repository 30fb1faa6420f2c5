"""What the agency knows of trips, and what its partners hold."""

from __future__ import annotations

from django.db import models


class Trip(models.Model):
    """A trip that somebody asked for."""

    traveller: models.CharField[str, str] = models.CharField(max_length=100)
    destination: models.CharField[str, str] = models.CharField(max_length=100)
    confirmed: models.BooleanField[bool, bool] = models.BooleanField(default=False)

    objects: models.Manager[Trip] = models.Manager()

    def __str__(self) -> str:
        return f"{self.traveller} to {self.destination}"


class Booking(models.Model):
    """A partner's book: one entry for each thing of a trip, however often it is asked for."""

    trip: models.ForeignKey[Trip, Trip] = models.ForeignKey(Trip, on_delete=models.CASCADE)
    what: models.CharField[str, str] = models.CharField(max_length=20)
    cancelled: models.BooleanField[bool, bool] = models.BooleanField(default=False)

    objects: models.Manager[Booking] = models.Manager()

    class Meta:
        """Asked for twice, it is the same."""

        constraints = (models.UniqueConstraint(fields=("trip", "what"), name="once"),)

    def __str__(self) -> str:
        return f"{self.what} of trip {self.trip}"

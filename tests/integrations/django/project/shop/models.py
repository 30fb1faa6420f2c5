from django.db import models


class Trip(models.Model):
    key = models.CharField(max_length=50, unique=True)
    booked = models.BooleanField(default=False)

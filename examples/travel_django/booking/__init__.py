"""Trips, and what is booked for them."""

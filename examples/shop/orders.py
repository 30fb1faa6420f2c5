"""What the shop and the services say to each other."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Order:
    """One customer's wish."""

    id: str
    sku: str
    quantity: int
    total_cents: int


@dataclass(frozen=True)
class Reservation:
    """Stock put aside; `left` is what remains on hand."""

    sku: str
    quantity: int
    left: int


@dataclass(frozen=True)
class Receipt:
    """A charge on the customer's card."""

    number: int
    cents: int


@dataclass(frozen=True)
class Parcel:
    """What the courier took with them."""

    number: int

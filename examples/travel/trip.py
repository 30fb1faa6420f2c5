"""What a traveller asks for."""

from pydantic import BaseModel


class Trip(BaseModel):
    """One wish. Its `id` is the traveller's: who sends it twice books once."""

    id: str
    traveller: str
    city: str
    cents: int

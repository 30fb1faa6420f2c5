"""The agency's app: its web server and its workers each make one."""

import os

from examples.travel.saga import BookTrip, Partners
from standfast import Standfast

travel = Standfast(os.environ["TRAVEL_DATABASE"], migrate=True)
travel.add(BookTrip(Partners(os.environ["PARTNERS"])))

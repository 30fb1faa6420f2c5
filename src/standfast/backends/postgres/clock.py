"""The server's clock, which judges leases and says when something became due."""

from __future__ import annotations

NOW = "extract(epoch FROM clock_timestamp())::float8"
"""The time now as SQL, in seconds since the epoch; not the time at which the transaction began."""

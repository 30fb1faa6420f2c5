"""For sync code: what apps and transactions do, called without ``await``."""

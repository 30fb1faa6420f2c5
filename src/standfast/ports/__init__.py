"""All that a backend author must read: what Standfast asks of a database.

`database` is a database as a whole and its transactions, `journal` stores coordination journals
(sagas first), `leases` says which workers are alive. Each protocol's docstrings state atomicity,
ordering and errors; `standfast.conformance` holds a test suite for each that a backend subclasses.
"""

"""Ports: what a backend must do, at the level of meaning.

A backend author reads this package and nothing else of the library, and proves the result with
`standfast.conformance`. `providing` tells how a port is found.
"""

from standfast.ports.database import Capabilities, Database, Row, StoreTransaction
from standfast.ports.providing import Dialect, Provided, provide
from standfast.ports.schema import SchemaLine, SchemaMigration

__all__ = [
    "Capabilities",
    "Database",
    "Dialect",
    "Provided",
    "Row",
    "SchemaLine",
    "SchemaMigration",
    "StoreTransaction",
    "provide",
]

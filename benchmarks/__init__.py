"""What Standfast costs, measured against other libraries and against the database itself.

``make bench ARGS="sagas throughput"`` runs one; ``make bench`` tells which there are.
"""

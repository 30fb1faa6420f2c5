"""`make soak`: what is too long, or needs too much, for the test suite.

`python -m tests.soak --list` tells the parts. Each is a module here: `seeds`, `chaos`, `postgres`,
`pgbouncer`, `standby` and `python313`. What they share: `part` (what a part is), `run` and `show`
(running them and telling about it), `processes` and `machine` (child processes; what gets
installed), and `load` (sagas that are started and run while something is broken, and the audit).
"""

"""`simulate`: a saga, run thousands of times in virtual time with faults that a seed decides.

`simulate` runs seeds and shrinks what fails, `play` is one run, `process` the worker that is killed
in it and `store` what it writes to, `calls` stands between the engine and the user's functions,
`chance` decides what goes wrong, `invariants` checks what must hold, and `report` sums up.
"""

"""The ``standfast`` command line, on typer and rich (``pip install 'standfast[cli]'``).

`main` is where it begins; `loading` finds the app and opens its database, `output` prints,
`filters` and `batches` are what commands have in common; the others are the commands.
"""

"""The ``standfast`` command line, on typer and rich (``pip install 'standfast[cli]'``).

`main` is where it begins and `commands` the root of all commands; `sagas` looks, `acts` acts.
`loading` finds the app and opens its database, `options` holds what commands have in common,
`batches` what is long, and `output` prints.
"""

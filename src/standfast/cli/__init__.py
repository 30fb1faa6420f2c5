"""The ``standfast`` command line, on typer and rich (the extra `cli`).

`main` is where it begins and `commands` the root of all commands; `sagas` looks (and prints its
`tables`), `acts` acts, by `telling` those that were chosen.
What the others do stands in `running` (with `health`), `migrating` and `processes`. `loading` finds
the app and opens its database, `options` holds what commands have in common, `given` reads what
comes as text, `batches` does what is long, and `output` prints.

Help comes at once: the modules that declare commands import nothing heavy, and each command loads
what it needs.
"""

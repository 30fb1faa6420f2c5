"""The code in README.md and docs/ is run: what a reader copies has to work.

All blocks of a page run in order, in one process and one namespace, in an empty folder:

- ```` ```python ```` runs as a file would: in `__main__`, and nothing is awaited at top level.
- ```` ```python title="shop.py" ```` is written to that file and imported; its names are then at
  hand, and later blocks and commands can import it.
- `<!-- test: append -->` before such a block adds it to the file, after two empty lines.
- `<!-- test: run -->` before a ```` ```console ```` block runs its lines that start with
  `$ standfast`, `$ python` or `$ touch`; each must exit with 0. `$DSN` in them is filled in. One
  that ends in `&` runs beside the rest of the page, and is interrupted at its end.
- `<!-- test: skip because REASON -->` before a block leaves it out; the test run prints why.
- `<!-- test: postgres -->` anywhere on a page gives it `DSN`, the address of an empty database.
"""

"""Never run: mypy and pyright read these in ``make check``; what is wrong must be told."""

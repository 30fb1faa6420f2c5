"""A pattern of one's own: `docs/how-to/write-a-pattern.md` tells how it is made."""

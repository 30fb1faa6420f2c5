"""Part `seeds`: `standfast.testing.simulate` over ever more seeds, in all processors.

It goes on where the last run ended; a seed that failed is run again first, until it holds.
"""

"""Sagas that are started and run by processes, while those and their servers are broken.

`starter` starts them and waits for each end, `worker` runs them, `schedule` says when to break
what, `trial` does it, and `audit` tells from the ledgers of the participants what is lost or
doubled. The sagas are those of `tests.crash.voyage`.
"""

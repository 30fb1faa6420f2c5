"""Three services, each a process with a database of its own, as in any company.

They take part in sagas that they know nothing of. All they share is the barrier: a request carries
a branch key, and whatever it does takes effect once for that branch, and is undone at most once.
"""

"""A shop that is killed while it works: `python -m examples.shop`, or `make demo`.

Customers order over HTTP. Each order is a row and a saga, written in one transaction. The saga
reserves stock, charges the card and ships, through three services that fail, are slow, lose answers
and refuse. Meanwhile its worker is killed, again and again. At the end an audit asks every ledger
whether anything was lost or done twice.

Read it in this order:

| file | what it tells |
|---|---|
| `orders.py` | what an order is, and what the services answer |
| `saga.py` | `PlaceOrder`: reserve, charge, ship, notify, or give everything back |
| `clients.py` | how a step speaks to a service: refused, done, or unknown |
| `api.py` | how an order comes in: one transaction for the row and the saga |
| `worker.py` | the process that runs the sagas, and gets killed |
| `services/` | stock, payments, courier: each with a database of its own, and the barrier in it |
| `audit.py` | plain SQL over all ledgers; knows nothing of the library |
| `faults.py`, `customers.py` | the bad luck and the orders, both drawn from one seed |
| `processes.py`, `display.py`, `demo.py` | the stage: processes, progress, the run as a whole |
"""

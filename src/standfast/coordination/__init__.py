"""Cluster membership, supervised background services, and the claiming of due work.

`membership` keeps a process's lease, `supervisor` runs its `service`s under it, and `lifecycle`
decides how they stand. `worker` claims the instances of a coordination journal, as far as its
`slots` allow, and hands them to a pattern's executor. `purging` deletes what has expired.
`watchdog` and `health` see whether all that goes on.
"""

from standfast.coordination.lifecycle import ServiceStatus
from standfast.coordination.purging import Purging
from standfast.coordination.service import Duty, Service, ServiceOptions

__all__ = ["Duty", "Purging", "Service", "ServiceOptions", "ServiceStatus"]

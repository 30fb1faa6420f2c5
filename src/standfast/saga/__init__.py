"""Sagas by orchestration: a class, its steps and their compensations, run durably.

`saga` and `steps` are how a saga is written, `definition` and `plan` its checked shape. `machine`
(with `state`, `branch`, `facts`, `events`) makes every decision, `runner` (with `attempt`,
`active`) carries them out, `executor` has those that a worker claimed, and `sagas` starts, signals
and reads.
"""

from standfast.saga.context import Context
from standfast.saga.finding import Page
from standfast.saga.handle import SagaHandle, SagaResult, Story
from standfast.saga.operations import Operations, Progress
from standfast.saga.pending import Pending
from standfast.saga.progress import Change
from standfast.saga.retention import Retention
from standfast.saga.saga import Migration, Saga
from standfast.saga.sagas import Sagas
from standfast.saga.status import FINISHED, STATUSES, Status
from standfast.saga.step import Step
from standfast.saga.steps import child, sleep, step, wait
from standfast.saga.stuck_groups import StuckGroup
from standfast.saga.timeline import Entry, Timeline

__all__ = [
    "FINISHED",
    "STATUSES",
    "Change",
    "Context",
    "Entry",
    "Migration",
    "Operations",
    "Page",
    "Pending",
    "Progress",
    "Retention",
    "Saga",
    "SagaHandle",
    "SagaResult",
    "Sagas",
    "Status",
    "Step",
    "Story",
    "StuckGroup",
    "Timeline",
    "child",
    "sleep",
    "step",
    "wait",
]

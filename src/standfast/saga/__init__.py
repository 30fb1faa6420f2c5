"""Sagas by orchestration: a class, its steps and their compensations, run durably.

`definition` and `steps` are how a saga is written, `plan` its checked shape, `machine` (with
`state`, `branch`, `facts`, `events`) every decision, `runner` (with `attempt`, `active`) carries
them out, `worker` shares the work, and `client` starts, signals and reads.
"""

from standfast.saga.client import Sagas
from standfast.saga.context import Context
from standfast.saga.definition import Migration, Saga
from standfast.saga.handle import SagaHandle, SagaResult, Story
from standfast.saga.state import FINISHED, STATUSES
from standfast.saga.steps import Step, child, step, wait

__all__ = [
    "FINISHED",
    "STATUSES",
    "Context",
    "Migration",
    "Saga",
    "SagaHandle",
    "SagaResult",
    "Sagas",
    "Step",
    "Story",
    "child",
    "step",
    "wait",
]

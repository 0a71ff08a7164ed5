"""SAGA: steps that are visible when they are done, each with a compensation that undoes it.

`@tidelock.saga_step` makes a function a step of the application's own global transaction;
`SagaService` serves functions that the cluster calls as steps of sagas that it runs;
`SagaDefinition` builds what it follows in the state language, and `SagaRunner` starts that.
docs/sdk/SAGA.md of the repository shows both.
"""

from tidelock.saga.context import StepContext
from tidelock.saga.definition import END, Loop, Repeat, SagaDefinition
from tidelock.saga.errors import SagaError, SagaUnfinishedError, StepReportLostError
from tidelock.saga.results import saga_result_ddl
from tidelock.saga.runs import SagaRun, SagaRunner
from tidelock.saga.service import SagaService
from tidelock.saga.source import SagaDataSource
from tidelock.saga.steps import saga_step

__all__ = [
    "END",
    "Loop",
    "Repeat",
    "SagaDataSource",
    "SagaDefinition",
    "SagaError",
    "SagaRun",
    "SagaRunner",
    "SagaService",
    "SagaUnfinishedError",
    "StepContext",
    "StepReportLostError",
    "saga_result_ddl",
    "saga_step",
]

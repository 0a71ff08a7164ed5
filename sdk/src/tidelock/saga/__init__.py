"""SAGA: steps that are visible when they are done, each with a compensation that undoes it.

Three ways lead there, and the functions look alike in all of them: `@saga_step` makes a function a
step of the application's own global transaction; `SagaService` serves functions that the cluster
calls over HTTP; `SagaDefinition` builds what the cluster follows in the state language.
"""

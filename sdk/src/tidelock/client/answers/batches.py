"""Answers to batches."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from tidelock.client.answers.answer import Answer
from tidelock.errors import Problem, of_problem

T = TypeVar("T")


class BatchResults(Answer, frozen=True, kw_only=True):
    """One result for each operation, in order; `status` is what the operation alone would say."""

    results: list[dict[str, Any]]  # each as its operation answers

    def read(self, place: int, answer: type[T]) -> T:
        """Return one result as the answer that its operation alone would give.

        Raises: ProblemError: the operation was refused.
        """
        result = self.results[place]
        if result["status"] >= 400:
            raise of_problem(msgspec.convert(result, Problem))
        return msgspec.convert(result, answer)

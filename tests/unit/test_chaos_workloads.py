"""Workloads of chaos runs are chosen by name, and names that retire are not used again."""

from __future__ import annotations

import random

import pytest

from scripts.tidelock_scripts.chaos.round_clients import Names
from scripts.tidelock_scripts.chaos.workloads import MIX, WORKLOADS, chosen_workloads


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_alone_is_chosen_by_its_name(name: str) -> None:
    assert chosen_workloads(name) == (name,)


def test_the_mix_is_all_of_them() -> None:
    assert chosen_workloads(MIX) == WORKLOADS


def test_an_unknown_workload_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"no workload 'lock'.*locks.*mix"):
        chosen_workloads("lock")


def test_a_name_is_used_so_often_and_then_never_again() -> None:
    names, chance = Names("p", 2, operations=3), random.Random(1)
    chosen = [names.choose(chance) for _ in range(40)]
    assert {*chosen} == {*names.used()}
    assert all(chosen.count(name) <= 3 for name in names.used())
    for name in names.used():
        first = chosen.index(name)
        slot = name.partition("-")[0]
        since = [each for each in chosen[first:] if each.startswith(slot)]
        assert since[: since.count(name)] == [name] * since.count(name)

"""Demo tasks are found by name, and the configuration knows the same names."""

from __future__ import annotations

import pytest

from grpo.config import GENERATED
from grpo.config.sections import DataSection
from grpo.demos import DEMO_TASKS
from grpo.tasks import find_format


def test_the_configuration_names_the_demo_tasks_and_their_options():
    assert set(DEMO_TASKS) == GENERATED - {"arithmetic"}
    assert all(option in DataSection.model_fields for demo in DEMO_TASKS.values() for option in demo.options)


@pytest.mark.parametrize("name", DEMO_TASKS)
def test_fewer_training_rows_are_some_of_all_and_the_held_out_rows_stay(name):
    options = {"eval_size": 2, "answer_format": find_format("plain"), "seed": 0}
    every, some = DEMO_TASKS[name].make(**options), DEMO_TASKS[name].make(train_size=4, **options)
    assert len(some.train) == 4
    assert {row.prompt for row in some.train} < {row.prompt for row in every.train}
    if name != "programs":  # its problems are as many as are asked for
        assert some.evaluation == every.evaluation

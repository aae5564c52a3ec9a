"""The script that measures the tests makes the mutations that it promises."""

from __future__ import annotations

from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
MODULE = b'''"""A docstring with a number, 1."""

__all__ = ["half"]


def half(values: list[float], least: int = 2) -> float:
    """Return half of the least value."""
    if len(values) < least:
        raise ValueError(f"only {len(values)} values")
    return min(values) / 2.0
'''


@pytest.fixture(autouse=True)
def scripts_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def test_every_place_of_a_module_that_computes_is_changed_and_no_text_is() -> None:
    from mutations import mutations_of

    changed = [[mutation.diff(MODULE).splitlines()[-1] for mutation in place] for place in mutations_of(MODULE)]
    assert changed == [
        [
            "+def half(values: list[float], least: int = 3) -> float:",
            "+def half(values: list[float], least: int = 1) -> float:",
        ],
        ["+    if (not (len(values) < least)):", "+    if True:", "+    if False:"],
        ["+    if len(values) <= least:", "+    if len(values) >= least:"],
        ["+        pass"],
        ["+    return None"],
        ["+    return min(values) * 2.0"],
        ["+    return max(values) / 2.0"],
        ["+    return min(values) / 4.0", "+    return min(values) / 0.0"],
    ]
    assert all(mutation.is_valid(MODULE) for place in mutations_of(MODULE) for mutation in place)


def test_a_draw_depends_on_its_seed_alone_and_finds_the_tests_of_its_modules() -> None:
    import mutate

    drawn = mutate.draw(20, 1, ["algorithm"])
    assert drawn == mutate.draw(20, 1, ["algorithm"])
    assert drawn != mutate.draw(20, 2, ["algorithm"])
    assert len({task.key for task in drawn}) == 20
    assert {task.module.split("/")[0] for task in drawn} == {"algorithm"}
    assert all(any(name.startswith("tests/algorithm/") for name in task.tests) for task in drawn)

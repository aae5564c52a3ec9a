"""The filter of system calls, carried out as the kernel would: by number and arguments, for each kind of machine."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from grpo.sandbox.launcher import filter as rules
from grpo.sandbox.launcher.filter import filter_instructions

ALLOWED, KILLED, NOT_PERMITTED, NOT_THERE = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
OWN_PID = 1234


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine=request.param))
    return str(request.param)


def decision(machine: str, number: int, *arguments: int, shared: bool, architecture: int | None = None) -> int:
    """Return what the filter says of a call."""
    code = filter_instructions(shared=shared, own_pid=OWN_PID)
    assert code is not None
    values = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=iIQ6Q", number, architecture or MACHINES[machine][0], 0, *values)
    return carried_out(list(struct.iter_unpack("=HBBI", code)), data)


def carried_out(instructions: Sequence[tuple[int, int, int, int]], data: bytes) -> int:
    place, value = 0, 0
    while True:
        code, if_so, if_not, operand = instructions[place]
        place += 1
        if code == 0x06:
            return operand
        if code == 0x20:
            (value,) = struct.unpack_from("=I", data, operand)
        elif code == 0x54:
            value &= operand
        else:
            holds = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[code]
            place += if_so if holds else if_not


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "alone"])
def test_every_call_of_the_tables_is_refused_and_no_other(machine: str, shared: bool) -> None:
    column = MACHINES[machine][1]
    forbidden = rules._ALWAYS | (rules._WHEN_SHARED if shared else {})
    numbers = {numbers[column] for numbers in forbidden.values()} - {-1}
    told = {number: decision(machine, number, shared=shared) for number in range(480)}
    assert {number for number, said in told.items() if said == NOT_PERMITTED} >= numbers
    assert {number for number, said in told.items() if said == NOT_THERE} == {435, 437}
    judged_by_arguments = {
        numbers[column]
        for numbers in (rules._CLONE, rules._SOCKET, rules._FCNTL, rules._IOCTL, rules._PRLIMIT, rules._KILL)
    } | {rules._TGKILL[column]}
    assert {number for number, said in told.items() if said == NOT_PERMITTED} - numbers <= judged_by_arguments


def test_calls_of_other_architectures_end_the_program(machine: str) -> None:
    getpid = {"x86_64": 39, "aarch64": 172}[machine]
    assert decision(machine, getpid, shared=True) == ALLOWED
    assert decision(machine, getpid, shared=True, architecture=0x40000003) == KILLED
    x32 = decision(machine, 0x40000000 + 39, shared=False)
    assert x32 == (NOT_PERMITTED if machine == "x86_64" else ALLOWED)


def test_calls_are_judged_by_their_arguments(machine: str) -> None:
    column = MACHINES[machine][1]
    cases = [
        (rules._CLONE, (17,), True, True),
        *((rules._CLONE, (17 | flag,), False, False) for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000)),
        *((rules._CLONE, (17 | flag,), False, False) for flag in (0x10000000, 0x20000000, 0x40000000, 0x80)),
        *((rules._FCNTL, (1, command), False, False) for command in (8, 10, 15)),
        (rules._FCNTL, (1, 3), True, True),
        *((rules._IOCTL, (1, request), False, False) for request in (0x5412, 0x8901, 0x8902)),
        (rules._IOCTL, (1, 0x5401), True, True),
        *((rules._IOCTL, (1, request), True, False) for request in (0x40086602, 0x40046602, 0x401C5820)),
        (rules._PRLIMIT, (0, 1), True, True),
        (rules._PRLIMIT, (77, 1), False, False),
        (rules._KILL, (OWN_PID, 9), True, True),
        (rules._KILL, (OWN_PID + 1, 9), True, False),
        (rules._KILL, (0xFFFFFFFFFFFFFFFF, 9), True, False),
        (rules._TGKILL, (OWN_PID, 5, 9), True, True),
        (rules._TGKILL, (OWN_PID + 1, 5, 9), True, False),
        *((rules._SOCKET, (family, 1), True, False) for family in (1, 2, 10)),
        *((rules._SOCKET, (family, 3), False, False) for family in (16, 17, 38, 40)),
        (rules._OPENAT, (3, 0, os.O_RDONLY), True, True),
        (rules._OPENAT, (3, 0, os.O_WRONLY | os.O_TRUNC), True, True),
        (rules._OPENAT, (3, 0, os.O_RDONLY | os.O_TRUNC | os.O_CLOEXEC), True, False),
    ]
    if machine == "x86_64":
        cases.append((rules._OPEN, (0, os.O_RDONLY | os.O_TRUNC), True, False))
    for numbers, arguments, alone, shared in cases:
        told = [decision(machine, numbers[column], *arguments, shared=each) == ALLOWED for each in (False, True)]
        assert told == [alone, shared], (numbers, arguments)


def test_there_is_no_filter_for_a_machine_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="riscv64"))
    assert filter_instructions(shared=True, own_pid=1) is None

"""Programs that search for the expected values of their tests, and programs that try to decide their own verdict."""

from __future__ import annotations

import uuid

import pytest

from grpo.sandbox import Limits, run_tests

LIMITS = Limits(wall_s=60, cpu_s=10, memory_mb=512)

SEARCH = """
import gc, inspect, os, re, sys, threading
PATTERN = "NEE" + "DLE_[0-9a-f]{32}"
found = set()
def look(text):
    found.update(re.findall(PATTERN, text if isinstance(text, str) else text.decode("latin-1")))
def look_into(value, depth=0):
    try:
        look(repr(value)[:100_000])
        code = getattr(value, "__code__", value if inspect.iscode(value) else None)
        if code is not None and depth < 5:
            look(repr(code.co_consts))
            for constant in code.co_consts:
                look_into(constant, depth + 1)
        for cell in getattr(value, "__closure__", None) or ():
            look_into(cell.cell_contents, depth + 1)
    except Exception:
        pass
def frames():
    for frame in [*sys._current_frames().values(), *(each.frame for each in inspect.stack(0))]:
        while frame:
            look_into(frame.f_locals), look_into(frame.f_globals), look_into(frame.f_code)
            frame = frame.f_back
def garbage():
    for value in gc.get_objects():
        if isinstance(value, (dict, list, tuple, str)) or inspect.isroutine(value) or inspect.isframe(value):
            look_into(value)
def modules():
    for module in list(sys.modules.values()):
        look_into(vars(module))
        for value in list(vars(module).values()):
            if inspect.isroutine(value):
                look_into(value)
                try: look(inspect.getsource(value))
                except Exception: pass
def files():
    for folder in (".", "/tmp", os.path.dirname(os.path.abspath(sys.argv[0]))):
        for name in os.listdir(folder):
            try: look(open(os.path.join(folder, name), "rb").read())
            except OSError: pass
def descriptors():
    for process in processes():
        for number in range(64):
            try: look(open(f"/proc/{process}/fd/{number}", "rb", opener=nonblocking).read() or b"")
            except (OSError, ValueError): pass
    for number in range(64):
        try: os.lseek(number, 0, 0); look(os.read(number, 1_000_000))
        except OSError: pass
def nonblocking(path, flags):
    return os.open(path, flags | os.O_NONBLOCK)
def processes():
    try: return [*filter(str.isdigit, os.listdir("/proc")), "self"]
    except OSError: return ["self", *map(str, range(os.getpid() - 3, os.getpid() + 4))]
def memory():
    for process in processes():
        try:
            with open(f"/proc/{process}/maps") as maps, open(f"/proc/{process}/mem", "rb", 0) as file:
                for line in maps:
                    start, end = (int(part, 16) for part in line.split()[0].split("-"))
                    if "rw" in line.split()[1] and end - start < 1 << 26:
                        try:
                            file.seek(start)
                            look(file.read(end - start))
                        except (OSError, ValueError, OverflowError): pass
        except OSError: pass
def search():
    for way in (frames, garbage, modules, files, descriptors, memory):
        try: way()
        except OSError: pass
def double(x):
    search()
    return max(found, default=None)
search()
"""

FORMS = {
    "asserts": 'assert double(1) == "{}"\nassert double(2) in ("{}", "b")',
    "check": 'def check(candidate):\n    assert candidate(1) == "{}"\n    assert "{}".lower() == candidate(2).lower()',
    "check with statements": (
        'EXPECTED = ["{}"]\ndef same(value):\n    assert value in EXPECTED\n'
        'def check(candidate):\n    for x in (1, 2):\n        same(candidate(x))\n    assert candidate(3) == "{}"'
    ),
    "check that is called": (
        'def check(candidate):\n    wanted = "{}"\n    assert candidate(1) == wanted\ncheck(double)'
    ),
    "check beside asserts": (
        'def check(candidate):\n    assert candidate(1) == "{}"\ncheck(double)\nassert double(2) == "{}"'
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_program_does_not_find_what_these_forms_of_tests_expect(form: str, namespaces: bool) -> None:
    tests = FORMS[form].replace("{}", f"NEEDLE_{uuid.uuid4().hex}")
    run = run_tests(SEARCH, tests, entry_point="double", limits=LIMITS, namespaces=namespaces)
    assert not any(run.passed)
    assert run.error is None


IN_PROCESS = {
    "test function": 'def test_it():\n    assert double(1) == "{}"',
    "loop": 'for x in (1, 2):\n    assert double(x) == "{}"',
    "class": 'class TestIt:\n    def test(self): assert double(1) == "{}"',
    "no literal": 'wanted = "{}"\nassert double(1) == wanted',
    "two comparisons": 'assert double(1) == "{}" and double(2) == "{}"',
}


@pytest.mark.parametrize("form", IN_PROCESS)
def test_the_same_search_finds_what_other_forms_expect_as_the_documentation_says(form: str, namespaces: bool) -> None:
    tests = IN_PROCESS[form].replace("{}", f"NEEDLE_{uuid.uuid4().hex}")
    assert all(run_tests(SEARCH, tests, limits=LIMITS, namespaces=namespaces).passed)


CHECK = """
import math
import statistics
def check(candidate):
    assert candidate(2) == 4
    assert abs(candidate(1.5) - 3) < 1e-6
    assert 4 == candidate(2)
    assert candidate([1]) == [1] + [1]
    assert math.isclose(candidate(2), 4)
    assert statistics.mean([candidate(2)]) == 4
    assert candidate(2) in {4}
    assert sorted([candidate(2)]) == [4]
"""
LOOP = """
def check(candidate):
    for got, wanted in zip(map(candidate, (1, 2, 3)), (2, 4, 6)):
        assert got == wanted
"""
CONTEXT = """
def check(candidate):
    with candidate(2) as value:
        assert value == 4
"""
VERDICTS = {
    "equal to everything": (
        "class Any:\n"
        "    def __getattr__(self, name): return lambda *_: 0\n"
        "    __eq__ = __contains__ = __bool__ = __lt__ = __le__ = __gt__ = __ge__ = lambda *_: True\n"
        "    __sub__ = __rsub__ = __abs__ = __add__ = __radd__ = __round__ = lambda *_: 0\n"
        "    __float__ = lambda self: 4.0\n"
        "    __enter__ = lambda self: self\n    __exit__ = lambda *_: True\n    __hash__ = lambda self: hash(4)\n"
        "    __iter__ = lambda self: iter([self])\n    __len__ = lambda self: 1\n"
        "double = lambda x: Any()"
    ),
    "ends loops": "def double(x): raise StopIteration",
    "ends": "import os\ndef double(x): os._exit(0)",
    "exits": "import sys\ndef double(x): sys.exit(0)",
    "skips": "import unittest\ndef double(x): raise unittest.SkipTest('no')",
    "own modules": (
        "for name in ('math', 'statistics', 'json', 'numbers', 'fractions', 'decimal', 'random', 'asyncio'):\n"
        "    open(f'{name}.py', 'w').write('import os\\nmean = isclose = lambda *_: 4\\n__getattr__ = lambda _: 4\\n"
        'os.write(1, b"broken in")\')\ndouble = lambda x: None'
    ),
    "changed built-ins": (
        "import builtins, math, operator, statistics, sys\n"
        "builtins.abs = lambda _: 0\nbuiltins.sorted = lambda _: [4]\n"
        "math.isclose = lambda *_: True\nstatistics.mean = lambda _: 4\noperator.eq = lambda *_: True\n"
        "sys.modules['tests'] = sys.modules['program']\ndef check(candidate): pass\nabs = builtins.abs\ndouble = id"
    ),
    "replies": (
        "import os, threading\n"
        "def write():\n    for number in range(200):\n        for fd in range(3, 20):\n"
        '            try: os.write(fd, b\'{"id": %d}\\n{"id": %d, "value": null}\\n{"step": %d}\\n{"returned": ""}\\n\''
        " % (number, number, number))\n            except OSError: pass\n"
        "write()\ndef double(x): write()"
    ),
    "calls the tests' functions": (
        "import os\nfor fd in range(3, 20):\n"
        '    try: os.write(fd, b\'{"function": 0, "arguments": []}\\n{"function": "a"}\\n[1]\\n{"id": []}\\n\')\n'
        "    except OSError: pass\ndouble = id"
    ),
    "ends the other process": (
        "import os, signal\n"
        "def double(x):\n    for pid in range(os.getpid() - 2, os.getpid() + 5):\n"
        "        if pid > 1 and pid != os.getpid():\n            try: os.kill(pid, signal.SIGKILL)\n"
        "            except OSError: pass\n    return None"
    ),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_a_program_does_not_decide_whether_it_passes_a_check(name: str, namespaces: bool) -> None:
    for tests in (CHECK, LOOP, CONTEXT):
        run = run_tests(VERDICTS[name], tests, entry_point="double", limits=LIMITS, namespaces=namespaces)
        assert not any(run.passed), tests


HONEST = {
    "class": (
        "class Stack:\n    def __init__(self, *entries): self.entries = list(entries)\n"
        "    def push(self, entry): self.entries.append(entry); return self\n"
        "    def __len__(self): return len(self.entries)\n    def __iter__(self): return iter(self.entries)\n"
        "    def __eq__(self, other): return self.entries == other.entries",
        "def check(candidate):\n    stack = candidate(1, 2)\n    stack.push(3).push(4)\n"
        "    assert len(stack) == 4 and list(stack) == [1, 2, 3, 4] and 3 in stack and stack.entries[0] == 1\n"
        "    assert stack == candidate(1, 2, 3, 4) and stack != candidate() and isinstance(stack, candidate)\n"
        "    assert stack and not candidate()\n    stack.entries = [7]\n    assert sum(stack) == 7",
        "Stack",
    ),
    "changes its argument": (
        "def fill(a, b, c):\n    a.sort(); b['x'] = [1]; c.add(9)",
        "def check(candidate):\n    a, b, c = [3, 1, 2], {}, {1}\n    assert candidate(a, b, c) is None\n"
        "    assert a == [1, 2, 3] and b == {'x': [1]} and c == {1, 9}",
        "fill",
    ),
    "takes functions": (
        "def twice(f, x): return f(f(x))\ndef by(rows, key): return sorted(rows, key=key)",
        "def check(candidate):\n    assert candidate(lambda x: x + 1, 3) == 5\n"
        "    assert candidate(str.upper, 'a') == 'A'\n"
        "    assert candidate(lambda x: candidate(lambda y: y * 2, x), 1) == 16\n"
        "    assert by(['bb', 'a'], key=lambda row: len(row)) == ['a', 'bb']",
        "twice",
    ),
    "yields": (
        "def count(n):\n    for i in range(n): yield i",
        "def check(candidate):\n    assert list(candidate(3)) == [0, 1, 2]\n    assert next(candidate(9)) == 0\n"
        "    for got, wanted in zip(candidate(2), (0, 1), strict=True):\n        assert got == wanted",
        "count",
    ),
    "raises": (
        "class Own(KeyError): pass\ndef check_it(x):\n    if x < 0: raise ValueError('below')\n    raise Own(x)",
        "def check(candidate):\n    for value, kind in ((-1, ValueError), (1, KeyError)):\n"
        "        try:\n            candidate(value)\n            assert False\n        except kind as error:\n"
        "            assert value > 0 or str(error) == 'below'",
        "check_it",
    ),
    "awaits": (
        "async def later(x): return x + 1",
        "import asyncio\ndef check(candidate):\n    assert asyncio.run(candidate(1)) == 2\n    assert candidate(1)",
        "later",
    ),
    "awaited check": (
        "async def later(x): return x + 1",
        "async def check(candidate):\n    assert await candidate(1) == 2",
        "later",
    ),
    "other names of the program": (
        "import math\nLIMIT = 7\ndef poly(xs, x): return sum(c * math.pow(x, i) for i, c in enumerate(xs))\n"
        "def find_zero(xs): return -xs[0] / xs[1]",
        "import copy\ndef check(candidate):\n    for xs in ([1, 2], [3, 4]):\n"
        "        assert math.fabs(poly(xs, candidate(copy.deepcopy(xs)))) < 1e-4\n    assert LIMIT == 7",
        "find_zero",
    ),
    "much": (
        "def many(n): return list(range(n))",
        "def check(candidate):\n    print('noise')\n    assert candidate(200_000) == list(range(200_000))\n"
        "    assert candidate(n=2) == [0, 1]",
        "many",
    ),
    "method": (
        "class A:\n    @staticmethod\n    def f(x): return x",
        "def check(candidate):\n    assert candidate(1) == 1",
        "A.f",
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_a_check_can_do_with_a_program_what_it_could_do_beside_it(name: str, namespaces: bool) -> None:
    program, tests, entry_point = HONEST[name]
    run = run_tests(program, tests, entry_point=entry_point, limits=LIMITS, namespaces=namespaces)
    assert all(run.passed), run
    wrong = run_tests(
        f"{program}\n{entry_point.partition('.')[0]} = print", tests, entry_point=entry_point, limits=LIMITS
    )
    assert not all(wrong.passed)


@pytest.mark.parametrize(
    ("program", "killed_by", "error"),
    [
        ("def f(x):\n    while True: pass", "cpu time", "killed by cpu time"),
        ("import os\ndef f(x): os.abort()", "SIGABRT", "killed by SIGABRT"),
        ("import os\ndef f(x): os._exit(3)", None, "ended with exit code 3"),
        ("def f(x): return x + 1", "cpu time", "killed by cpu time"),
    ],
)
def test_the_end_of_a_program_within_a_check_has_its_reason(program: str, killed_by: str | None, error: str) -> None:
    check = "def check(candidate):\n    while candidate(1) == 2: candidate = lambda _: 2"
    check += "\n    assert candidate(1) == 3"
    run = run_tests(program, check, entry_point="f", limits=Limits(wall_s=60, cpu_s=1))
    assert (run.passed, run.error, run.execution.killed_by) == ((False,), error, killed_by)

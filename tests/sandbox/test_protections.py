"""What `grpo doctor --sandbox` tells: it says no where a program gets through."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from grpo.sandbox import protections

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

SYSTEM_PYTHON = Path("/usr/bin/python3")


def told(namespaces: bool) -> dict[str, bool]:
    found = protections(namespaces=namespaces)
    assert all(one.how for one in found)
    return {one.name: one.in_force for one in found}


def test_protections_are_told_with_their_means(namespaces: bool) -> None:
    found = told(namespaces)
    missing = {name for name, in_force in found.items() if not in_force}
    if namespaces:
        assert missing == set()
    else:
        assert missing <= {"namespaces of its own", "does not run as root"} | (
            set() if has_landlock() else {"reads no files outside its folder"}
        )


def has_landlock() -> bool:
    return ctypes.CDLL(None).syscall(444, None, ctypes.c_long(0), ctypes.c_long(1)) > 0


def test_where_nothing_stops_a_program_the_answer_is_no(without) -> None:
    without("landlock", "filter")
    found = told(False)
    open_to_all = [
        "reads no files outside its folder",
        "reaches no network",
        "reaches no shared memory",
        "makes no unusual system calls",
        "namespaces of its own",
    ]
    if os.geteuid() != 0 or not found["does not run as root"]:  # it is the same user as the caller
        open_to_all += [
            "writes no files outside its folder",
            "changes no file's mode, times or length",
            "signals no other process",
        ]
    assert [name for name in open_to_all if found[name]] == []
    for held in (
        "leaves no process behind",
        "wall time",
        "output",
        "gains no privileges",
        "memory of all its processes",
    ):
        assert found[held]


def test_without_a_filter_files_are_still_closed_by_landlock(without) -> None:
    if not has_landlock():
        pytest.skip("it has nothing to do there")
    without("filter")
    found = told(False)
    assert found["reads no files outside its folder"]
    assert found["writes no files outside its folder"]
    assert not found["makes no unusual system calls"]


AS_ANOTHER = '''
import sys
sys.path.insert(0, {source!r})
from grpo.sandbox import protections, run_program, run_tests, Limits
for namespaces in (True, False):
    try:
        passed = run_tests("def f(x): return 2 * x", "assert f(2) == 4", namespaces=namespaces).passed
    except Exception as error:
        print(namespaces, "refused" if namespaces else error)
        continue
    print(namespaces, passed)
    found = protections(namespaces=namespaces) if {ask} else []
    missing = {{one.name for one in found if not one.in_force}}
    print(sorted(missing - {{"namespaces of its own", "does not run as root"}}))
    deep = "import os\\nos.mkdir('a'); os.mkdir('a/shut', 0)\\nwhile True: os.mkdir('d' * 200); os.chdir('d' * 200)"
    print(run_program(deep, namespaces=namespaces, limits=Limits(wall_s=30)).killed_by)
from grpo.sandbox import run
run._BOOTSTRAP += "sys.modules['grpo.sandbox.launcher.main'].filter_instructions = lambda **_: None\\n"
run._BOOTSTRAP += "def refuse(*_): raise OSError\\n"
run._BOOTSTRAP += "sys.modules['grpo.sandbox.launcher.kernel'].restrict_files = refuse\\n"
look = """
import os
for name in ("mem", "environ", *(f"fd/{{number}}" for number in range(3, 30))):
    try: print("got through:", name, open(f"/proc/{{os.getppid()}}/{{name}}", "rb"))
    except OSError: pass
"""
for namespaces in (True, False):
    try: print(run_program(look, namespaces=namespaces).stdout, end="")
    except Exception: pass
'''
USERS = {
    "somebody": ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups"],
    "root of a namespace": ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups", "unshare", "-r"],
    "root without rights": ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"],
    "root of a container": ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all", "--no-new-privs"],
}


@pytest.mark.skipif(
    os.geteuid() != 0 or not SYSTEM_PYTHON.exists() or not shutil.which("setpriv"), reason="needs root and setpriv"
)
@pytest.mark.parametrize("user", USERS)
def test_others_than_root_can_run_programs_and_are_as_safe(user: str, tmp_path_factory) -> None:
    import grpo

    source = Path(grpo.__file__).parents[1]
    if not all(folder.stat().st_mode & 0o005 for folder in (source, *source.parents)):
        pytest.skip("others may not read this package")
    folder = Path(os.environ["TMPDIR"]) / "of-another"
    folder.mkdir()
    os.chown(folder, 1000, 1000)
    try:
        run = subprocess.run(
            [
                *USERS[user],
                str(SYSTEM_PYTHON),
                "-B",
                "-c",
                AS_ANOTHER.format(source=str(source), ask=user == "somebody"),
            ],
            env={"TMPDIR": str(folder), "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert list(folder.iterdir()) == []
    finally:
        folder.rmdir()
    isolated = "True refused\n" if "True refused" in run.stdout else "True (True,)\n[]\nNone\n"
    assert run.stdout == f"{isolated}False (True,)\n[]\nfiles\n", run.stderr

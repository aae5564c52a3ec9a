from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import resource
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from grpo.errors import CheckpointError, StorageError
from grpo.tracking import Failure, RunDirectory, find_run, is_in_use, newest_run, read_failure, require_empty


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def log_steps(run: RunDirectory, first: int, last: int) -> None:
    for step in range(first, last + 1):
        run.append_completions([{"step": step, "completion": f"{step} ½ \u2028 {index}"} for index in range(3)])
        run.append_metrics({"step": step, "reward": step / 7})
        if step % 2 == 0:
            run.append_eval({"accuracy": 0.5, "step": step})


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def test_a_run_without_a_place_gets_its_own_below_runs(runs: Path) -> None:
    with RunDirectory.create(name="arithmetic") as first, RunDirectory.create(name="arithmetic") as second:
        assert first.path != second.path
        assert first.path.parent == Path("runs")
        assert first.path.name.startswith("arithmetic-2")
        second.append_metrics({"step": 1})
        assert (runs / "latest").readlink() == Path(second.path.name)


def test_latest_is_the_run_that_last_began_to_train(runs: Path) -> None:
    for name in ("one", "two", "fails before its first step"):
        with RunDirectory.create(runs / name) as run:
            run.write_config(f"name: {name}\n")
            if " " not in name:
                run.append_metrics({"step": 1})
    assert find_run(runs / "latest") == runs / "two"
    with RunDirectory.open(runs / "one") as run:
        assert find_run(runs / "latest") == runs / "two"
        run.append_metrics({"step": 2})
    assert find_run(runs / "latest") == runs / "one"
    assert (runs / "latest" / "config.yaml").read_text() == "name: one\n"
    # A resumed run that has no step left is finished once more.
    with RunDirectory.open(runs / "two") as run:
        keys = ("eval_before", "eval_after", "steps", "seconds", "completion_tokens_per_s", "peak_memory_mb")
        run.write_summary(dict.fromkeys(keys, 1))
    assert find_run(runs / "latest") == runs / "two"


def test_the_newest_run_is_the_one_that_was_started_or_resumed_last(runs: Path) -> None:
    assert newest_run() is None
    for age, name in ((3, "one"), (1, "two"), (2, "three")):
        with RunDirectory.create(runs / name) as run:
            run.write_config("")
            run.append_metrics({"step": 1})
        os.utime(run.path / "config.yaml", ns=(0, 10**18 - age))
    assert newest_run() == Path("runs/two")


def test_a_failure_is_recorded_until_the_run_continues(tmp_path: Path) -> None:
    failure = Failure(3, "the reward raised", "saved after step 3")
    with RunDirectory.create(tmp_path / "run") as run:
        assert read_failure(run.path) is None
        assert is_in_use(run.path)
        run.write_failure(failure)
    assert not is_in_use(run.path)
    assert read_failure(run.path) == failure
    (run.path / "failure.json").write_text("[1]")
    with pytest.raises(CheckpointError, match=r"failure\.json is damaged.*remove it"):
        read_failure(run.path)
    run.clear_failure()
    assert read_failure(run.path) is None


def test_latest_is_a_text_file_where_links_cannot_be_made(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError("a required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    for name in ("one", "two"):
        with RunDirectory.create(runs / name) as run:
            run.write_config("")
            run.append_metrics({"step": 1})
    assert (runs / "latest").read_text() == "two\n"
    assert find_run("runs/latest") == Path("runs/two")
    with RunDirectory.open("runs/latest") as run:
        assert run.path == Path("runs/two")


def test_a_real_folder_named_latest_is_left_alone(runs: Path) -> None:
    (runs / "latest").mkdir(parents=True)
    with RunDirectory.create(runs / "one") as run:
        run.append_metrics({"step": 1})
    assert (runs / "latest").is_dir()
    assert not (runs / "latest").is_symlink()


def test_a_run_elsewhere_makes_no_link(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "out") as run:
        run.append_metrics({"step": 1})
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_a_directory_that_holds_another_run_is_refused_and_untouched(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "out") as run:
        run.write_config("seed: 1\n")
    with pytest.raises(CheckpointError, match=r"holds another run.*grpo train --resume .*another output_dir"):
        RunDirectory.create(tmp_path / "out")
    assert (tmp_path / "out" / "config.yaml").read_text() == "seed: 1\n"


def test_a_directory_with_other_files_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(CheckpointError, match=r"not empty \(it has thesis\.tex\)"):
        RunDirectory.create(tmp_path)
    with pytest.raises(CheckpointError, match="is a file"):
        RunDirectory.create(tmp_path / "thesis.tex")
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_empty_directory_is_taken(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path) as run:
        run.append_metrics({"step": 1})
    assert lines(tmp_path / "metrics.jsonl") == [{"step": 1}]


def test_only_a_run_can_be_opened(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run at"):
        RunDirectory.open(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=r"has no config\.yaml"):
        RunDirectory.open(tmp_path)
    assert list(tmp_path.iterdir()) == []


def _hold(path: Path, pipe: Connection) -> None:
    with RunDirectory.open(path):
        pipe.send("held")
        pipe.recv()


@pytest.mark.skipif(os.name == "nt", reason="no such locks")
def test_two_processes_cannot_write_one_run(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path) as run:
        run.write_config("")
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_hold, args=(tmp_path, theirs))
    process.start()
    assert ours.recv() == "held"
    with pytest.raises(CheckpointError, match=f"in use by process {process.pid} on"):
        RunDirectory.open(tmp_path)
    process.kill()
    process.join()
    RunDirectory.open(tmp_path).close()


def test_rewound_logs_equal_those_of_an_uninterrupted_run(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "whole") as whole:
        log_steps(whole, 1, 9)
    with RunDirectory.create(tmp_path / "parts") as parts:
        log_steps(parts, 1, 7)
        with (parts.path / "completions.jsonl").open("ab") as file:
            file.write(b'{"step": 8, "completion": "ha')
        with (parts.path / "metrics.jsonl").open("ab") as file:
            file.write(b'{"step": 3}')  # no newline: never finished, whatever it says
        parts.rewind(5)
        assert [line["step"] for line in lines(parts.path / "metrics.jsonl")] == [1, 2, 3, 4, 5]
        log_steps(parts, 6, 9)
    for name in ("metrics.jsonl", "completions.jsonl", "eval.jsonl"):
        assert (whole.path / name).read_bytes() == (parts.path / name).read_bytes()


def test_rewinding_to_before_the_start_drops_everything(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path) as run:
        run.append_eval({"step": 0, "accuracy": 0.1})
        log_steps(run, 1, 2)
        run.rewind(0)
        assert lines(tmp_path / "eval.jsonl") == [{"step": 0, "accuracy": 0.1}]
        assert lines(tmp_path / "metrics.jsonl") == []
        run.rewind(-1)
        assert lines(tmp_path / "eval.jsonl") == []


def test_rewinding_nothing_writes_nothing(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path) as run:
        run.rewind(3)
        log_steps(run, 1, 3)
        before = (tmp_path / "metrics.jsonl").stat()
        run.rewind(3)
        assert (tmp_path / "metrics.jsonl").stat().st_mtime_ns == before.st_mtime_ns
    assert {entry.name for entry in tmp_path.iterdir()} == {".lock", "metrics.jsonl", "completions.jsonl", "eval.jsonl"}


def test_a_line_that_does_not_fit_is_not_begun(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path) as run:
        run.append_metrics({"step": 1})
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            with pytest.raises(StorageError, match=r"metrics\.jsonl: File too large"):
                run.append_metrics({"step": 2, "text": "x" * 2000})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        run.append_metrics({"step": 2})
    assert lines(tmp_path / "metrics.jsonl") == [{"step": 1}, {"step": 2}]


def test_a_summary_has_what_its_readers_rely_on(tmp_path: Path) -> None:
    summary = {
        "eval_before": None,
        "eval_after": {"accuracy": 0.9, "accuracy_ci95": [0.8, 1.0], "reward": float("nan")},
        "steps": 3,
        "seconds": 1.5,
        "completion_tokens_per_s": 10.0,
        "peak_memory_mb": 100.0,
        "final_model": tmp_path / "final_model",
    }
    with RunDirectory.create(tmp_path) as run:
        run.write_summary(summary)
        written = json.loads((tmp_path / "summary.json").read_text())
        assert written["eval_after"] == {"accuracy": 0.9, "accuracy_ci95": [0.8, 1.0], "reward": None}
        assert written["final_model"] == str(tmp_path / "final_model")
        del summary["peak_memory_mb"]
        with pytest.raises(ValueError, match="peak_memory_mb"):
            run.write_summary(summary)


def test_what_steps_recorded_can_be_read_again(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run") as run:
        assert run.metrics() == []
        for step in (1, 2):
            run.append_metrics({"step": step, "reward": 0.5})
        assert run.metrics() == [{"step": 1, "reward": 0.5}, {"step": 2, "reward": 0.5}]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files can be counted on Linux only")
def test_a_run_that_could_not_begin_leaves_nothing_behind(runs: Path) -> None:
    before = open_files()
    run = RunDirectory.create(runs / "deep" / "one")
    run.write_config("")
    (run.path / "checkpoint-1").mkdir()
    (run.path / "checkpoint-1" / "file").write_text("x")
    assert open_files() == before + 1
    run.discard()
    assert not runs.exists()
    assert open_files() == before


def test_a_discarded_run_leaves_latest_as_it_is(runs: Path) -> None:
    with RunDirectory.create(runs / "one") as run:
        run.write_config("")
        run.append_metrics({"step": 1})
    RunDirectory.create(runs / "two").discard()
    assert find_run(runs / "latest") == runs / "one"
    assert sorted(entry.name for entry in runs.iterdir()) == ["latest", "one"]


def test_a_discarded_run_leaves_latest_to_a_later_one_and_folders_to_what_others_put_there(runs: Path) -> None:
    first = RunDirectory.create(runs / "first")
    with RunDirectory.create(runs / "second") as second:
        second.write_config("")
        second.append_metrics({"step": 1})
        first.discard()
        assert find_run(runs / "latest") == runs / "second"
    assert sorted(entry.name for entry in runs.iterdir()) == ["latest", "second"]


def test_a_folder_that_was_there_before_stays_when_its_run_is_discarded(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    RunDirectory.create(tmp_path / "mine").discard()
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_summary_is_set_aside_under_its_number_of_steps(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path) as run:
        run.set_summary_aside()
        for text, name in (('{"steps": 30}', "summary-30.json"), ("{", "summary-before.json")):
            (tmp_path / "summary.json").write_text(text)
            run.set_summary_aside()
            assert (tmp_path / name).read_text() == text
            assert not (tmp_path / "summary.json").exists()


def test_a_run_may_begin_where_only_a_lock_is_left(tmp_path: Path) -> None:
    require_empty(tmp_path / "new")
    (tmp_path / ".lock").touch()
    require_empty(tmp_path)
    (tmp_path / "b.txt").touch()
    (tmp_path / "a.txt").touch()
    with pytest.raises(CheckpointError, match=r"is not empty \(it has a\.txt\)"):
        require_empty(tmp_path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_killed_before_its_configuration_was_written_is_begun_again(tmp_path: Path) -> None:
    for at in itertools.count(1):
        process = os.fork()
        if not process:
            calls = itertools.count(1)

            def mortal(verb, calls=calls, at=at):
                def act(*args, **options):
                    if next(calls) == at:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return verb(*args, **options)

                return act

            Path.write_bytes, Path.replace, os.fsync = map(mortal, (Path.write_bytes, Path.replace, os.fsync))
            code = 1
            try:
                RunDirectory.create(tmp_path / "run").write_config("steps: 1\n")
                code = 0
            finally:
                os._exit(code)
        if (ended := os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])) == 0:
            break
        assert ended == -signal.SIGKILL
        assert not (tmp_path / "run" / "config.yaml").exists()
    assert at == 4  # before the file is written, synchronised and renamed, and never
    assert (tmp_path / "run" / "config.yaml").read_text() == "steps: 1\n"
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.yaml", ".lock"}


@pytest.mark.skipif(os.name == "nt", reason="no such locks")
def test_a_closed_run_can_be_opened_again_and_closing_twice_does_nothing(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path)
    run.write_config("")
    with pytest.raises(CheckpointError, match=rf"in use by process {os.getpid()} on .*: wait for it"):
        RunDirectory.open(tmp_path)
    run.close()
    run.close()
    RunDirectory.open(tmp_path).close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forked processes")
def test_a_closed_run_is_free_though_a_forked_child_still_has_it_open(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path)
    run.write_config("")
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    try:
        run.close()
        RunDirectory.open(tmp_path).close()
    finally:
        os.close(writing)
        os.waitpid(child, 0)
        os.close(reading)

import json
import subprocess

import pytest
import torch

from longrecipe import models, settings
from longrecipe.cli import main
from longrecipe.cost import measure, runner
from longrecipe.cost.cases import Case, Resuming, gpu_cases, mini_cases
from longrecipe.cost.record import record_of
from longrecipe.settings import Setup
from longrecipe.train import PLAIN
from longrecipe.train.options import missing_compiler

RATES = '{"matmul_flops": 1.0}\n'
CASE = Case("llama3", "mini", "longrecipe", 512, PLAIN, batch_size=1, steps=3)


def cases_at(*lengths):
    """Mini's cases at these target lengths alone."""
    return [case for case in mini_cases(lengths) if case.target_length in lengths]


def test_names_of_cases_are_unique_and_list_changes():
    assert CASE.name == "llama3 longrecipe T=512 n=153"
    assert Case("llama3", "mini", "flt", 512, PLAIN).n_tokens == 512
    gpu = gpu_cases(85e9)
    for cases in (gpu, mini_cases()):
        assert len({case.name for case in cases}) == len(cases)
    names = [case.name for case in gpu]
    assert names[:2] == [
        "llama3 longrecipe T=131072 n=39321 offload_activations=True",
        "llama3 longrecipe T=131072 n=39321",
    ]
    assert "llama3 reads n=131072" in names and "mistral resumes with adamw_8bit" in names
    assert any(name.startswith("mistral") for name in names) and any(name.startswith("qwen2") for name in names)


def test_first_case_of_a_gpu_is_the_setup_of_params_paper():
    p, first = settings.load("llama3", "paper", text="text"), gpu_cases(85e9)[0]
    assert first.setup == Setup.of(p) and (first.target_length, first.model) == (p.target_length, p.model)


def test_cases_that_cannot_fit_are_left_out():
    # Without checkpointing 8B needs hundreds of GB; a card of 24 GB holds only two blocks.
    assert all(case.setup.checkpointing for case in gpu_cases(85e9))
    assert [type(case) for case in gpu_cases(24e9)] == [Resuming]
    assert all(case.modelled_bytes < 94e9 for case in gpu_cases(85e9))


@pytest.mark.slow
def test_dry_run_measures_each_kind_with_mini_models(capsys, tmp_path, monkeypatch, warm_children):
    monkeypatch.setattr("longrecipe.system.paths.results_dir", lambda: tmp_path)
    main(["cost", "gpu", "--dry-run"])
    assert not list(tmp_path.iterdir())
    record = json.loads(capsys.readouterr().out)
    assert all(case["scale"] == "mini" for part in ("cases", "readings", "resumes") for case in record[part].values())
    assert record["rates"]["matmul_flops"] > 0
    assert [case["setup"]["compile"] for case in record["cases"].values()] == [False, not missing_compiler()]
    assert all(case["measured"]["seconds_per_step"] > 0 for case in record["cases"].values())
    (read,), (resumed,) = (record[part].values() for part in ("readings", "resumes"))
    assert read["measured"]["seconds"] > 0 and read["measured"]["answer_seconds"] > 0
    assert resumed["measured"]["resumed_from"] in (4, 8)
    # On a CPU a resumed stage equals the uninterrupted one bit for bit.
    assert resumed["measured"]["largest_difference"] == 0 or torch.cuda.is_available()


@pytest.mark.parametrize("words", [["mini", "--dry-run"], ["gpu", "--dry-run", "--out", "a.json"]])
def test_dry_run_is_for_the_gpu_cases_and_keeps_nothing(words, capsys):
    with pytest.raises(SystemExit) as left:
        main(["cost", *words])
    assert left.value.code == 2 and "--dry-run goes with gpu and without --out" in capsys.readouterr().err


def test_rates_that_cannot_be_measured_end_the_run(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\nRuntimeError: no driver\n")
    monkeypatch.setattr(runner.subprocess, "run", lambda command, **options: failed)
    with pytest.raises(runner.CasesFailedError, match=r"rates .* \(exit status 1: RuntimeError: no driver\)"):
        runner.run(cases_at(512), tmp_path / "mini.json", minutes=5)
    assert not (tmp_path / "mini.json").exists()


def test_rates_that_take_too_long_end_the_run(tmp_path):
    with pytest.raises(runner.CasesFailedError, match=r"rates .* \(the time is up\)"):
        runner.run(cases_at(512), tmp_path / "mini.json", minutes=0)


@pytest.mark.parametrize("setup", [PLAIN, Setup(optimizer="adamw_bf16")], ids=["plain", "saving"])
def test_case_is_measured_with_the_trainer(setup):
    found = measure.measure(Case("qwen2", "mini", "longrecipe", 512, setup, batch_size=2, steps=3))
    assert found["seconds_per_step"] > 0 and found["host_peak_gb"] > 0.1
    assert found["tokens_per_second"] == pytest.approx(2 * 153 / found["seconds_per_step"])


@pytest.mark.slow
def test_every_case_runs_in_its_own_process_and_results_are_kept(tmp_path, monkeypatch):
    asked, path = [], tmp_path / "mini.json"

    def process(command, **options):
        case = json.loads(command[-1])
        if case["kind"] == "rates":
            return subprocess.CompletedProcess(command, 0, RATES, "")
        asked.append(case["method"])
        if case["method"] == "rpes":
            return subprocess.CompletedProcess(command, 0, '{"error": "out of memory: 9 GB"}\n', "")
        return subprocess.CompletedProcess(command, 0, 'a line before\n{"seconds_per_step": 2.5}\n', "")

    monkeypatch.setattr(runner.subprocess, "run", process)
    cases = cases_at(512)
    runner.run(cases[:2], path, minutes=5)
    record = runner.run(cases, path, minutes=5)
    assert asked == [case.method for case in cases]
    assert json.loads(path.read_text()) == json.loads(json.dumps(record))
    assert [each["measured"] for each in record["cases"].values()] == [
        {"seconds_per_step": 2.5} if case.method != "rpes" else {"error": "out of memory: 9 GB"} for case in cases
    ]
    # No minute left: nothing is started, nothing is lost.
    runner.run(cases_at(512, 1024), path, minutes=0.5)
    assert len(asked) == 4 and json.loads(path.read_text())["cases"].keys() == record["cases"].keys()


@pytest.mark.slow
def test_failed_case_is_named_and_tried_again(tmp_path, monkeypatch, capsys):
    asked, path, broken = [], tmp_path / "mini.json", ["rpes", "pose"]
    answers = {"rpes": (1, "", "Traceback\n  line 3\nRuntimeError: no such thing\n"), "pose": (0, "nothing\n", "")}

    def process(command, **options):
        job = json.loads(command[-1])
        if job["kind"] == "rates":
            return subprocess.CompletedProcess(command, 0, RATES, "")
        asked.append(method := job["method"])
        done = answers[method] if method in broken else (0, '{"seconds_per_step": 2.5}\n', "")
        return subprocess.CompletedProcess(command, *done)

    monkeypatch.setattr(runner.subprocess, "run", process)
    cases = cases_at(512)
    monkeypatch.setattr("longrecipe.cost.cases.mini_cases", lambda: cases)
    with pytest.raises(SystemExit) as left:
        main(["cost", "mini", "--out", str(path), "--minutes", "5"])
    said = capsys.readouterr().err
    assert left.value.code == 1 and "2 cases failed; the next run tries them again: llama3 rpes T=512" in said
    assert "RuntimeError: no such thing" in said and "llama3 pose T=512 n=153 (exit status 0: no message)" in said
    assert "Traceback" not in said
    assert [case["method"] for case in json.loads(path.read_text())["cases"].values()] == ["flt", "longrecipe"]
    # A failure that an earlier version recorded is tried again too.
    record = json.loads(path.read_text())
    record["cases"][next(iter(record["cases"]))]["measured"] = {"error": "disk on fire"}
    path.write_text(json.dumps(record))
    del asked[:], broken[:]
    main(["cost", "mini", "--out", str(path), "--minutes", "5"])
    assert asked == ["flt", "rpes", "pose"]
    assert all("error" not in case["measured"] for case in json.loads(path.read_text())["cases"].values())


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"device": "a", "rates": {"matmul_flops": 1}, "cases": {"a": {}}}']
)
def test_damaged_record_is_named(text, tmp_path, capsys):
    path = tmp_path / "mini.json"
    path.write_text(text)
    with pytest.raises(SystemExit) as left:
        main(["cost", "mini", "--out", str(path)])
    said = capsys.readouterr().err
    assert left.value.code == 1 and str(path) in said and "delete it, and run `longrecipe cost mini` again" in said
    assert path.read_text() == text


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried"),
        MemoryError(),
        RuntimeError("[enforce] can't allocate memory: 1"),
    ],
    ids=["CUDA", "Python", "CPU allocator"],
)
def test_out_of_memory_is_a_result(error, monkeypatch):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(measure, "stage_trainer", fail)
    assert measure.measure(CASE)["error"].startswith("out of memory: ")


def test_other_errors_are_raised(monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("no such thing")

    monkeypatch.setattr(measure, "stage_trainer", fail)
    with pytest.raises(RuntimeError, match="no such thing"):
        measure.measure(CASE)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    with pytest.raises(SystemExit) as left:
        main(["cost", "gpu"])
    assert left.value.code == 1 and "there is no GPU here" in capsys.readouterr().err


def test_record_of_another_machine_is_refused(tmp_path):
    path = tmp_path / "mini.json"
    made = {"label": "measured", "rates": {"matmul_flops": 1.0}, "cases": {}}
    for about, message in (
        (runner._machine() | {"threads": 2}, "with threads 2, this is 1"),
        ({"device": "abacus", "threads": 1}, "with device abacus"),
    ):
        path.write_text(json.dumps(made | about))
        with pytest.raises(ValueError, match=f"{message}.*choose another file with --out"):
            runner.run([], path, minutes=5)
    path.write_text(json.dumps(made | runner._machine()))
    assert runner.run([], path, minutes=5)["cases"] == {}


@pytest.mark.skipif(torch.cuda.is_available(), reason="threads of the CPU matter without a GPU")
def test_committed_record_has_the_cases_of_this_version_and_one_thread():
    mini = record_of("mini")
    assert mini["threads"] == 1 == runner._machine()["threads"]
    assert set(mini["cases"]) <= {case.name for case in mini_cases()}
    with pytest.raises(ValueError, match="allowed are mini and gpu"):
        record_of("ratios")


def test_rates_are_measured_with_one_thread(monkeypatch):
    threads, before = [], torch.get_num_threads()
    fastest = measure._fastest
    monkeypatch.setattr(measure, "_fastest", lambda work: threads.append(torch.get_num_threads()) or fastest(work))
    found = measure.rates(models.config_of("llama3"), length=64)
    assert set(threads) == {1} and torch.get_num_threads() == before
    assert {"matmul_flops", "attention_flops", "bandwidth"} <= found.keys() and min(found.values()) > 0

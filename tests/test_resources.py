import json
import subprocess
import sys

import pytest
import torch

from longrecipe import cost, models, resources
from longrecipe.cost import Setup
from longrecipe.train import PLAIN

CASE = resources.Case("llama3", "mini", "longrecipe", 512, PLAIN, batch_size=1, steps=3)


def test_cases_have_names_of_their_own_and_say_what_changed():
    assert CASE.name == "llama3 longrecipe T=512 n=153"
    assert resources.Case("llama3", "mini", "flt", 512, PLAIN).n_tokens == 512
    gpu = resources.gpu_cases(85e9)
    for cases in (gpu, resources.mini_cases()):
        assert len({case.name for case in cases}) == len(cases)
    names = [case.name for case in gpu]
    assert names[0] == "llama3 longrecipe T=131072 n=39321"
    assert any(name.endswith("offload_activations=True") for name in names)
    assert any(name.startswith("mistral") for name in names) and any(name.startswith("qwen2") for name in names)


def test_what_cannot_fit_is_not_tried():
    # Without checkpointing 8B needs hundreds of GB; a card of 24 GB holds none of the cases.
    assert all(case.setup.checkpointing for case in resources.gpu_cases(85e9))
    assert resources.gpu_cases(24e9) == []
    for case in resources.gpu_cases(85e9):
        config = models.config_of(case.model, "paper")
        assert cost.training_memory(config, case.n_tokens, case.setup).peak < 94e9


@pytest.mark.parametrize("setup", [PLAIN, Setup(optimizer="adamw_bf16")], ids=["plain", "saving"])
def test_a_case_is_measured_with_the_trainer(setup):
    found = resources.measure(resources.Case("qwen2", "mini", "longrecipe", 512, setup, batch_size=2, steps=3))
    assert found["seconds_per_step"] > 0 and found["host_peak_gb"] > 0.1
    assert found["tokens_per_second"] == pytest.approx(2 * 153 / found["seconds_per_step"])


def test_every_case_runs_in_its_own_process_and_what_is_there_is_kept(tmp_path, monkeypatch):
    asked, path = [], tmp_path / "mini.json"

    def process(command, **options):
        case = json.loads(command[-1])
        asked.append(case["method"])
        # A broken case is recorded with its reason; the others go on.
        if case["method"] == "rpes":
            return subprocess.CompletedProcess(command, 1, "", "out of something")
        return subprocess.CompletedProcess(command, 0, 'a line before\n{"seconds_per_step": 2.5}\n', "")

    monkeypatch.setattr(resources.subprocess, "run", process)
    cases = resources.mini_cases([512])
    resources.run(cases[:2], path, minutes=5)
    record = resources.run(cases, path, minutes=5)
    assert asked == [case.method for case in cases]
    assert json.loads(path.read_text()) == json.loads(json.dumps(record))
    assert [each["measured"] for each in record["cases"].values()] == [
        {"seconds_per_step": 2.5} if case.method != "rpes" else {"error": "out of something"} for case in cases
    ]
    # No minute left: nothing is started, nothing is lost.
    resources.run(resources.mini_cases([512, 1024]), path, minutes=0.5)
    assert len(asked) == 4 and json.loads(path.read_text())["cases"].keys() == record["cases"].keys()


def test_one_case_by_the_command_line(tmp_path):
    words = [sys.executable, "-m", "longrecipe.resources", "one", json.dumps(resources.asdict(CASE))]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["seconds_per_step"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    with pytest.raises(SystemExit) as left:
        resources.main(["gpu"])
    assert left.value.code == 1 and "there is no GPU here" in capsys.readouterr().err


def test_rates_are_measured():
    found = resources.rates(models.config_of("llama3"), length=64)
    assert {"matmul_flops", "attention_flops", "bandwidth"} <= found.keys() and min(found.values()) > 0

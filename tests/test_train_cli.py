"""`longrecipe train` and `longrecipe check`, on a model and text of your own."""

import json
import os
import subprocess
from functools import partial
from pathlib import Path

import pytest
import yaml
from limits import TIMEOUT
from transformers import AutoModelForCausalLM, GPT2Config, MistralConfig

from longrecipe import recipe, settings
from longrecipe.cli import main
from longrecipe.data import english
from longrecipe.models.loading import load_tokenizer

ROOT = Path(__file__).resolve().parents[1]
PAPER = str(ROOT / "params" / "paper" / "llama3.yaml")
SHORT = {
    "model": "own",
    "scale": "small",
    "window": 256,
    "target_length": 512,
    "probe_window": 272,
    "probe_length": None,
    "analysis_length": None,
    "analysis_documents": 5,
    "probe_steps": 2,
    "probe_batch_size": 2,
    "n_documents": 8,
    "extend_steps": 2,
    "extend_batch_size": 4,
    "replay_steps": 2,
    "replay_batch_size": 4,
    "warmup_steps": 0,
    "precision": "fp32",
    "samples_at_once": 1,
    "fused_loss": True,
    "checkpointing": True,
    "offload_activations": False,
    "optimizer": "adamw_fp32",
    "fp32_weights": True,
    # Facts in sentences are long, and the window is short.
    "eval_facts": 2,
}


@pytest.fixture
def own(tmp_path, make_tiny):
    """A params file of your own, as short as params/own.yaml, with relative paths: a tiny model in a folder, long text
    and general text in files."""
    make_tiny(0).save_pretrained(tmp_path / "model")
    load_tokenizer("llama3").save_pretrained(tmp_path / "model")
    sentence = "In {0} there were {0} of them, and the others went away. "
    rows = [{"text": "".join(sentence.format(100 * i + k) for k in range(120))} for i in range(6)]
    (tmp_path / "long.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pairs = [{"instruction": f"Say {i}.", "output": f"It is {i}. " * 60} for i in range(8)]
    (tmp_path / "general.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    names = {"weights": "./model", "text": "long.jsonl", "replay_text": "./general.jsonl", "out": "./longer"}
    (tmp_path / "own.yaml").write_text(yaml.dump(SHORT | names))
    return tmp_path


@pytest.fixture
def start(warm_python):
    """A function that runs `longrecipe train`, by a launcher such as torchrun if it is given."""
    return partial(run_train, warm_python)


def run_train(python, folder, *words, launcher=()):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "LONGRECIPE_ROOT": str(ROOT)}
    environment |= {"LONGRECIPE_CACHE": str(folder / "cache"), "PYTHON_EXEC": python}
    command = [python, "-m", *launcher, "longrecipe", "train", "--params", str(folder / "own.yaml"), *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=TIMEOUT)


@pytest.mark.slow
def test_train_extends_your_own_model_on_your_own_text(own, start):
    done = start(own)
    assert done.returncode == 0, done.stderr[-3000:]
    merged = Path(done.stdout.strip())
    assert merged == own / "longer", "relative to the working directory"
    network = AutoModelForCausalLM.from_pretrained(merged)
    assert network.config.max_position_embeddings == 512
    card = (merged / "README.md").read_text()
    assert "| window, tokens | 256 to 512 |" in card and "Not measured" in card and str(own) not in card
    assert "extend: 1,224 tokens" in done.stderr and "replay: 2,048 tokens" in done.stderr
    assert "anchors: " in done.stderr and "modelled: " in done.stderr
    # The same command again trains nothing and prints the same folder.
    again = start(own)
    assert again.stdout == done.stdout and "extend: 1,224 tokens" in again.stderr
    stages = sorted(path.parent.name for path in (own / "cache").glob("*/*/stage.json"))
    assert stages == ["extend", "probe", "replay"]


@pytest.mark.slow
def test_two_processes_train_as_one(own, start):
    launcher = ("torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29653", "-m")
    alone = start(own)
    assert alone.returncode == 0, alone.stderr[-3000:]
    (own / "cache").rename(own / "alone")
    done = start(own, launcher=launcher)
    assert done.returncode == 0, done.stderr[-3000:]
    for stage in ("probe", "extend", "replay"):
        (one,), (two,) = ((own / cache).glob(f"*/{stage}/stage.json") for cache in ("alone", "cache"))
        one, two = json.loads(one.read_text()), json.loads(two.read_text())
        assert two["losses"] == pytest.approx(one["losses"], rel=1e-4), stage


@pytest.mark.slow
def test_your_own_model_is_measured_in_sentences(own, monkeypatch):
    monkeypatch.chdir(own)
    monkeypatch.setenv("LONGRECIPE_CACHE", str(own / "cache"))
    texts = english.english_texts(planted=False)[:100]
    (own / "long.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    run = recipe.prepare(settings.load(str(own / "own.yaml"), eval_documents=2, eval_facts=2))
    report = run.measure(run.base(), lengths=[256, 512])
    assert set(report.prompts["task"]) == {"multi-key", "multi-value", "multi-query"}
    assert set(report.prompts["length"]) == {256, 512} and report.general["perplexity"] > 1


def refused(capsys, *words):
    with pytest.raises(SystemExit) as left:
        main(list(words))
    assert left.value.code == 1
    return capsys.readouterr().err


def test_run_that_does_not_fit_exits_1_with_settings_that_fit(capsys):
    said = refused(capsys, "check", "--params", PAPER, "--gpu-gb", "24", "--host-gb", "64")
    assert "38,400 tokens need about 60 GB on the GPU" in said and "These would fit: 4 such GPUs" in said
    words = ["-p", "offload_activations", "false", "--gpu-gb", "68", "--host-gb", "64"]
    said = refused(capsys, "check", "--params", PAPER, *words)
    assert "on this GPU with checkpointing = True, offload_activations = True" in said


@pytest.mark.parametrize("name", ["llama3", "mistral", "qwen2"])
@pytest.mark.parametrize("target", ["131072", "81920"])
def test_the_papers_recipes_fit_an_80_gb_gpu(name, target, caplog):
    caplog.set_level("INFO")
    words = ["--params", str(ROOT / "params" / "paper" / f"{name}.yaml"), "-p", "target_length", target]
    main(["check", *words, "--gpu-gb", "76", "--host-gb", "100"])
    tokens = {"131072": "383M tokens in samples of 38,400", "81920": "240M tokens in samples of 24,000"}
    assert tokens[target] in caplog.text


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (("ratoi", "0.3"), "unknown parameter 'ratoi'. Did you mean 'ratio'?"),
        (("optimizer", "adam"), "optimizer = 'adam'"),
        (("ratio", "2"), "ratio = '2'"),
        (("seed", "4294967296"), "seed = '4294967296': input should be less than 4294967296"),
        (("eval_lengths", "[512"), "eval_lengths = '[512': is not a list"),
        (("method", "a: b: c"), "method = 'a: b: c': allowed are longrecipe"),
        (("model", "null"), "model = null: cannot be null"),
    ],
)
def test_invalid_settings_are_named(setting, message, capsys):
    assert message in refused(capsys, "check", "--params", PAPER, "-p", *setting)


@pytest.mark.parametrize("command", ["train", "check"])
def test_missing_text_is_named(command, own, capsys, monkeypatch):
    monkeypatch.chdir(own)
    for key in ("text", "replay_text"):
        said = refused(capsys, command, "--params", "own.yaml", "-p", key, "./folder")
        assert f"'{own / 'folder'}': there is no such file or folder" in said


def test_models_that_cannot_be_extended_are_refused_first(own, capsys, monkeypatch):
    monkeypatch.chdir(own)
    words = ["train", "--params", "own.yaml", "-p", "weights"]
    GPT2Config().save_pretrained(own / "gpt2")
    assert "GPT2Config has no rope_theta" in refused(capsys, *words, str(own / "gpt2"))
    MistralConfig(sliding_window=300).save_pretrained(own / "slides")
    assert "sliding window of 300 tokens" in refused(capsys, *words, str(own / "slides"))
    assert "no/such/model' at scale" in refused(capsys, *words, "no/such/model")


@pytest.mark.slow
def test_text_shorter_than_one_document_is_refused(own, start):
    done = start(own, "-p", "target_length", "65536", "-p", "method", "pose")
    assert done.returncode == 1
    assert "tokens to train on, and a document of target_length = 65536 needs 65,536: add text" in done.stderr

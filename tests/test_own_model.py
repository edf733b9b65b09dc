"""The whole command line on user models and texts: it trains and exports, or its error names the setting that helps."""

import json
import re

import cases
import model_cases
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config

from longrecipe.cli import main

# Long enough for facts in sentences, which take about 40 of these short tokens each.
WINDOW, TARGET = 512, 1024
QUICK = {
    "model": "mine",
    "scale": "small",
    "weights": "./model",
    "text": "./text",
    "out": "./longer",
    "window": None,
    "target_length": TARGET,
    "ratio": 0.25,
    "probe_steps": 1,
    "probe_batch_size": 1,
    "analysis_documents": 3,
    "token_types": "class",
    "n_documents": 2,
    "extend_steps": 1,
    "extend_batch_size": 1,
    "warmup_steps": 0,
    "replay_steps": 1,
    "replay_batch_size": 1,
    "eval_facts": 2,
    "precision": "fp32",
    "checkpointing": False,
}


@pytest.fixture
def start(tmp_path, monkeypatch, capsys, warm_children):
    """A function that runs the command line in a folder with model/ and text/, and returns its output."""
    monkeypatch.setenv("LONGRECIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def run(**changes):
        (tmp_path / "own.yaml").write_text(json.dumps(QUICK | changes))
        main(["train", "--params", "own.yaml"])
        return capsys.readouterr().out

    return run


def refused(start, capsys, **changes):
    with pytest.raises(SystemExit) as left:
        start(**changes)
    assert left.value.code == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def check_exported(folder, printed):
    assert printed == f"{folder / 'longer'}\n"
    network, tokenizer = (kind.from_pretrained(folder / "longer") for kind in (AutoModelForCausalLM, AutoTokenizer))
    ids = tokenizer("The river runs by the town. " * 400, truncation=True, return_tensors="pt")["input_ids"]
    assert ids.shape[1] == TARGET == network.config.max_position_embeddings
    prompt = ids[:, : int(0.9 * TARGET)]
    with torch.inference_mode():
        said = network.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=3, do_sample=False)
    assert said.shape[1] > prompt.shape[1]


@pytest.mark.parametrize("kind", sorted(model_cases.KINDS.keys() - {"phi"}))
@pytest.mark.slow
def test_every_family_trains_and_is_exported(kind, start, tmp_path):
    model_cases.base(tmp_path / "model", kind, max_position_embeddings=WINDOW)
    cases.write(tmp_path / "text", cases.books())
    check_exported(tmp_path, start())


@pytest.mark.slow
def test_head_with_a_bias_works_with_the_setting_in_the_error(start, capsys, tmp_path):
    model_cases.base(tmp_path / "model", "phi", max_position_embeddings=WINDOW)
    cases.write(tmp_path / "text", cases.books())
    assert "set fused_loss: false" in refused(start, capsys)
    check_exported(tmp_path, start(fused_loss=False))


@pytest.mark.slow
def test_capped_logits_work_with_the_settings_in_the_errors(start, capsys, tmp_path, monkeypatch):
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    gemma2 = Gemma2Config(
        **shape,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=model_cases.VOCABULARY,
        max_position_embeddings=WINDOW,
        sliding_window=128,
        query_pre_attn_scalar=8,
    )
    monkeypatch.setitem(model_cases.KINDS, "gemma2", lambda: gemma2)
    model_cases.base(tmp_path / "model", "gemma2")
    cases.write(tmp_path / "text", cases.books())
    said = refused(start, capsys, attention="eager")
    assert re.search("final_logit_softcapping.*selection: random", said)
    assert "set attention: eager" in refused(start, capsys, selection="random")
    assert "fused_loss: false" in refused(start, capsys, selection="random", attention="eager")
    check_exported(tmp_path, start(selection="random", attention="eager", fused_loss=False))


@pytest.mark.slow
def test_chinese_text_and_chats_for_replay_train(start, tmp_path):
    model_cases.base(tmp_path / "model", max_position_embeddings=WINDOW)
    cases.write(tmp_path / "text", cases.TEXTS["chinese"]())
    chats = [{"messages": cases.turns(f"What is {i}?", "It is a number.")} for i in range(99)]
    cases.write(tmp_path / "chats", {"a.jsonl": cases.lines(chats)})
    check_exported(tmp_path, start(replay_text="./chats"))

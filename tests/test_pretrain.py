import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import longrecipe.minis as module
from longrecipe.data.facts import fact_format
from longrecipe.data.sentences import token_strings
from longrecipe.minis import (
    IGNORE,
    Curriculum,
    CurriculumError,
    DivergedError,
    build_tokenizer,
    card,
    make_mini,
    pair_batch,
    pretrain,
)
from longrecipe.models.loading import ARCHITECTURES, VOCABULARY, WINDOW, load, new_mini


@pytest.fixture(scope="module")
def built():
    return build_tokenizer()


# the tokenizer


def test_the_numbers_are_the_last_single_tokens(built):
    assert len(built) == VOCABULARY
    assert token_strings(built)[-90:] == [f" {i}" for i in range(10, 100)]
    for i in range(10, 100):
        ids = built(f" KEY {i}.", add_special_tokens=False)["input_ids"]
        assert ids[-2] == VOCABULARY - 100 + i
    assert built.model_max_length == WINDOW
    assert built.bos_token_id == built.eos_token_id == 0


def test_the_tokenizer_loses_nothing_and_serves_facts(built):
    for text in ("One line.\nTwo  blanks, a\ttab; (brackets) 7 and 2024!", " naïve – ünïcode", ""):
        assert built.decode(built(text, add_special_tokens=False)["input_ids"]) == text
    facts = fact_format(built)
    assert len(facts.values) == 90 and len(facts.keys) >= 64


# phase A


@settings(deadline=None)
@given(n_pairs=st.integers(1, 16), n_tokens=st.integers(1, 2000), seed=st.integers(0, 2**32 - 1))
def test_a_pair_batch_asks_for_what_it_told(facts, n_pairs, n_tokens, seed):
    ids, labels = pair_batch(facts, n_pairs, n_tokens, np.random.default_rng(seed))
    assert ids.shape == labels.shape == (max(1, n_tokens // (6 * n_pairs)), 6 * n_pairs)
    assert ids.dtype == labels.dtype == np.int64
    for row, asked in zip(ids, labels, strict=True):
        keys, values = row[0::2], row[1::2]
        assert np.isin(keys, facts.keys).all() and np.isin(values, facts.values).all()
        told = dict(zip(keys[:n_pairs], values[:n_pairs], strict=True))
        assert len(told) == n_pairs
        assert all(told[key] == value for key, value in zip(keys, values, strict=True))
        # Labels on the values after the pairs, and on nothing else.
        assert (asked[0::2] == IGNORE).all() and (asked[: 2 * n_pairs] == IGNORE).all()
        np.testing.assert_array_equal(asked[2 * n_pairs + 1 :: 2], values[n_pairs:])


# the curriculum

QUICK = Curriculum(
    pairs=(1, 2),
    pass_mark=0.03,
    level_steps_at_most=200,
    attempts=3,
    pair_tokens_per_step=384,
    text_steps=8,
    text_tokens_per_step=512,
)


def test_the_curriculum_runs_through(make_tiny, corpus, facts):
    network = make_tiny(initializer_range=0.02)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    log = pretrain(network, corpus, facts, np.random.default_rng(0), QUICK)
    assert not network.training
    assert all(not torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    pairs = [row for row in log if row["phase"] == "A"]
    text = [row for row in log if row["phase"] == "B"]
    assert log == pairs + text
    assert [row["length"] for row in text] == [64, 64, 128, 256, 256, 256, 256, 256]
    assert sorted({row["pairs"] for row in pairs}) == [1, 2]
    # On to the next number of pairs as soon as the mark is passed, and not before.
    for n_pairs in (1, 2):
        accuracy = [row["accuracy"] for row in pairs if row["pairs"] == n_pairs]
        assert accuracy[-1] >= QUICK.pass_mark and max([0, *accuracy[:-1]]) < QUICK.pass_mark
    assert pairs[0]["loss"] > 6 and pairs[-1]["loss"] < pairs[0]["loss"] - 0.1
    assert all(np.isfinite(row["loss"]) for row in log)


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_every_architecture_finds_recall_with_tied_weights_and_keeps_its_own(model, corpus, facts, monkeypatch):
    settings = replace(QUICK, pairs=(1,), pair_tokens_per_step=96, level_steps_at_most=200, text_steps=3)
    network, make_stepper, seen = new_mini(model, seed=0), module._stepper, []

    def watched(network, settings):
        step = make_stepper(network, settings)

        def watched_step(ids, labels, *more):
            inputs, head = network.get_input_embeddings().weight, network.get_output_embeddings().weight
            before = inputs.detach().clone(), head.detach().clone()
            found = step(ids, labels, *more)
            # Both are trained, in either phase.
            assert not torch.equal(inputs, before[0]) and not torch.equal(head, before[1])
            equal = torch.equal(*before), torch.equal(inputs, head)
            seen.append(("B" if ids is labels else "A", inputs is head, *equal))
            return found

        return watched_step

    monkeypatch.setattr(module, "_stepper", watched)
    log = pretrain(network, corpus, facts, np.random.default_rng(0), settings)
    assert [row["phase"] for row in log] == [phase for phase, *_ in seen]
    assert {each[1:] for each in seen if each[0] == "A"} == {(True, True, True)}
    text = [each[1:] for each in seen if each[0] == "B"]
    # Phase B starts from equal weights; from its first step on they are two.
    own = [(False, True, False)] + 2 * [(False, False, False)]
    assert text == (own if model == "mistral" else 3 * [(True, True, True)])


def test_a_mark_out_of_reach_is_an_error(make_tiny, corpus, facts):
    settings = replace(QUICK, pairs=(2,), pass_mark=1.1, level_steps_at_most=3, pair_tokens_per_step=24)
    with pytest.raises(CurriculumError, match=r"2 pairs: recall \d\.\d\d after 3 steps, wanted 1\.1.*another seed"):
        pretrain(make_tiny(), corpus, facts, np.random.default_rng(0), settings)


# a mini model made and written


@pytest.fixture
def quick_parts(monkeypatch, tokenizer, corpus, make_tiny):
    """Make nothing costly: the tokenizer and text of the session, tiny networks. Returns the seeds asked for."""
    seeds = []
    monkeypatch.setattr(module, "build_tokenizer", lambda: tokenizer)
    monkeypatch.setattr(module, "load_english", lambda _: corpus)
    monkeypatch.setattr(module, "new_mini", lambda model, seed: seeds.append(seed) or make_tiny(seed))
    return seeds


def fail_first(monkeypatch, count):
    """Let the first attempts fail, and the others take two steps of each phase."""
    left = [count]

    def quick_pretrain(network, *args):
        left[0] -= 1
        if left[0] >= 0:
            raise CurriculumError("2 pairs: recall 0.50")
        phases = {"phase": "A", "pairs": 2, "loss": 2.0, "accuracy": 1.0}, {"phase": "B", "length": 64, "loss": 3.0}
        return [phases[0], phases[0], phases[1]]

    monkeypatch.setattr(module, "pretrain", quick_pretrain)


def test_a_made_model_says_how_it_was_made(quick_parts, monkeypatch, make_tiny, corpus, tmp_path):
    fail_first(monkeypatch, 1)
    frame = make_mini("llama3", tmp_path / "made", seed=7, settings=QUICK)
    assert len(set(quick_parts)) == 2 and quick_parts[0] == 7
    assert frame["phase"].tolist() == ["A", "A", "B"]
    record = json.loads((tmp_path / "made" / "training.json").read_text())
    assert (record["model"], record["seed"], record["attempts"]) == ("llama3", 7, 2)
    assert record["steps"] == {"A": 2, "B": 1}
    assert record["corpus_sha256"] == corpus.sha256
    assert Curriculum(**record["curriculum"] | {"pairs": (1, 2)}) == QUICK
    # Half the bytes on disk, and full precision to go on with.
    stored = load_file(tmp_path / "made" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    network, expected = load(tmp_path / "made"), make_tiny(quick_parts[1]).half().float()
    assert network.dtype == torch.float32
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in expected.state_dict().items())


def test_when_every_attempt_fails_it_says_so_and_writes_nothing(quick_parts, monkeypatch, tmp_path):
    fail_first(monkeypatch, QUICK.attempts)
    with pytest.raises(CurriculumError, match="recall 0"):
        make_mini("llama3", tmp_path / "made", settings=QUICK)
    assert len(set(quick_parts)) == QUICK.attempts
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"muon_learning_rate": 1e30},
            r"phase A, step \d+: loss .* at learning rates \S+ \(Muon\) and \S+ \(AdamW\); ",
        ),
        (
            {"pairs": (), "adamw_learning_rate": 1e30},
            r"phase B, step \d+: loss .*; lower muon_learning_rate and adamw_",
        ),
        ({"pairs": (), "text_steps": 1, "adamw_learning_rate": 1e6}, "the trained weights do not fit float16; lower "),
    ],
    ids=["phase A", "phase B", "weights"],
)
def test_a_training_that_diverges_stops_and_writes_nothing(changes, message, quick_parts, tmp_path):
    with pytest.raises(DivergedError, match=message):
        make_mini("llama3", tmp_path / "made", settings=replace(QUICK, **changes))
    assert len(quick_parts) == 1, "another initialisation does not help"
    assert not (tmp_path / "made").exists()


def test_the_card_tells_how_and_how_well(quick_parts, monkeypatch, tmp_path):
    fail_first(monkeypatch, 0)
    make_mini("llama3", tmp_path / "made", seed=7, settings=QUICK)
    training = json.loads((tmp_path / "made" / "training.json").read_text())
    cells = {256: {"mean": 0.9375, "prompts": 800}, 4096: {"mean": 0.0125, "prompts": 200}}
    text = card(training, {"recall": cells, "perplexity": 23.456}, 918_656, 500_000.0)
    assert text.startswith("---\nlicense: apache-2.0\n")
    assert "# Mini llama3" in text and "0.92M parameters" in text and "RoPE base 500000" in text
    assert "seed 7, attempt 1" in text and training["corpus_sha256"] in text and "perplexity 23.5" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert table == [
        "| tokens | 256 | 4096 |",
        "| --- | --- | --- |",
        "| recall | 0.938 | 0.013 |",
        "| prompts | 800 | 200 |",
    ]

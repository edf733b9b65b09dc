import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import longrecipe.minis as module
from longrecipe import curriculum
from longrecipe.curriculum import Curriculum, CurriculumError, pair_batch, pretrain
from longrecipe.data.facts import fact_format
from longrecipe.data.samples import IGNORE
from longrecipe.data.sentences import token_strings
from longrecipe.families import FAMILIES, MINI_VOCABULARY, MINI_WINDOW
from longrecipe.minis import build_tokenizer, card, make_mini
from longrecipe.models.loading import load, new_mini
from longrecipe.system.errors import DivergedError


@pytest.fixture(scope="module")
def built():
    return build_tokenizer()


# the tokenizer


def test_numbers_are_the_last_90_tokens(built):
    assert len(built) == MINI_VOCABULARY
    assert token_strings(built)[-90:] == [f" {i}" for i in range(10, 100)]
    for i in range(10, 100):
        ids = built(f" KEY {i}.", add_special_tokens=False)["input_ids"]
        assert ids[-2] == MINI_VOCABULARY - 100 + i
    assert built.model_max_length == MINI_WINDOW
    assert built.bos_token_id == built.eos_token_id == 0


def test_tokenizer_is_lossless_and_has_tokens_for_facts(built):
    for text in ("One line.\nTwo  blanks, a\ttab; (brackets) 7 and 2024!", " naïve – ünïcode", ""):
        assert built.decode(built(text, add_special_tokens=False)["input_ids"]) == text
    facts = fact_format(built)
    assert len(facts.values) == 90 and len(facts.keys) >= 64


# phase A


@settings(deadline=None)
@given(n_pairs=st.integers(1, 16), n_tokens=st.integers(1, 2000), seed=st.integers(0, 2**32 - 1))
def test_pair_batch_repeats_its_pairs_and_labels_their_values(facts, n_pairs, n_tokens, seed):
    ids, labels = pair_batch(facts, n_pairs, n_tokens, rng=np.random.default_rng(seed))
    assert ids.shape == labels.shape == (max(1, n_tokens // (6 * n_pairs)), 6 * n_pairs)
    assert ids.dtype == labels.dtype == np.int64
    for row, label in zip(ids, labels, strict=True):
        keys, values = row[0::2], row[1::2]
        assert np.isin(keys, facts.keys).all() and np.isin(values, facts.values).all()
        pairs = dict(zip(keys[:n_pairs], values[:n_pairs], strict=True))
        assert len(pairs) == n_pairs
        assert all(pairs[key] == value for key, value in zip(keys, values, strict=True))
        # Only values of repeated pairs have labels.
        assert (label[0::2] == IGNORE).all() and (label[: 2 * n_pairs] == IGNORE).all()
        np.testing.assert_array_equal(label[2 * n_pairs + 1 :: 2], values[n_pairs:])


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


@pytest.mark.slow
def test_curriculum_trains_both_phases(make_tiny, corpus, facts):
    network = make_tiny(initializer_range=0.02)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    log = pretrain(network, corpus, facts, rng=np.random.default_rng(0), settings=QUICK)
    assert not network.training
    assert all(not torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    pairs = [row for row in log if row["phase"] == "A"]
    text = [row for row in log if row["phase"] == "B"]
    assert log == pairs + text
    assert [row["length"] for row in text] == [64, 64, 128, 256, 256, 256, 256, 256]
    assert sorted({row["pairs"] for row in pairs}) == [1, 2]
    # Goes to the next number of pairs as soon as recall passes the mark.
    for n_pairs in (1, 2):
        accuracy = [row["accuracy"] for row in pairs if row["pairs"] == n_pairs]
        assert accuracy[-1] >= QUICK.pass_mark and max([0, *accuracy[:-1]]) < QUICK.pass_mark
    assert pairs[0]["loss"] > 6 and pairs[-1]["loss"] < pairs[0]["loss"] - 0.1
    assert all(np.isfinite(row["loss"]) for row in log)


@pytest.mark.parametrize("model", FAMILIES)
@pytest.mark.slow
def test_every_architecture_learns_recall_with_tied_weights_and_keeps_its_own(model, corpus, facts, monkeypatch):
    settings = replace(QUICK, pairs=(1,), pair_tokens_per_step=96, level_steps_at_most=200, text_steps=3)
    network, seen = new_mini(model, seed=0), []

    class Watched(curriculum._Optimizers):
        def step(self, ids, labels, **options):
            inputs, head = self.network.get_input_embeddings().weight, self.network.get_output_embeddings().weight
            before = inputs.detach().clone(), head.detach().clone()
            found = super().step(ids, labels, **options)
            # Both are trained, in either phase.
            assert not torch.equal(inputs, before[0]) and not torch.equal(head, before[1])
            equal = torch.equal(*before), torch.equal(inputs, head)
            seen.append(("B" if ids is labels else "A", inputs is head, *equal))
            return found

    monkeypatch.setattr(curriculum, "_Optimizers", Watched)
    log = pretrain(network, corpus, facts, rng=np.random.default_rng(0), settings=settings)
    assert [row["phase"] for row in log] == [phase for phase, *_ in seen]
    assert {each[1:] for each in seen if each[0] == "A"} == {(True, True, True)}
    text = [each[1:] for each in seen if each[0] == "B"]
    # Phase B starts from equal weights, which differ after its first step.
    own = [(False, True, False)] + 2 * [(False, False, False)]
    assert text == (own if model == "mistral" else 3 * [(True, True, True)])


def test_pass_mark_that_is_not_reached_is_an_error(make_tiny, corpus, facts):
    settings = replace(QUICK, pairs=(2,), pass_mark=1.1, level_steps_at_most=3, pair_tokens_per_step=24)
    message = r"2 pairs: recall \d\.\d\d after 3 steps, below the pass mark of 1\.1.*another seed"
    with pytest.raises(CurriculumError, match=message):
        pretrain(make_tiny(), corpus, facts, rng=np.random.default_rng(0), settings=settings)


# a mini model made and written


@pytest.fixture
def quick_parts(monkeypatch, tokenizer, corpus, make_tiny):
    """Use the tokenizer and text of the session, and tiny networks. Returns the list of seeds used."""
    seeds = []
    monkeypatch.setattr(module, "build_tokenizer", lambda: tokenizer)
    monkeypatch.setattr(module, "load_english", lambda _: corpus)
    monkeypatch.setattr(module, "new_mini", lambda model, seed: seeds.append(seed) or make_tiny(seed))
    return seeds


def fail_first(monkeypatch, count):
    """Let the first `count` attempts fail, and the others return a short log."""
    left = [count]

    def quick_pretrain(network, *args, **options):
        left[0] -= 1
        if left[0] >= 0:
            raise CurriculumError("2 pairs: recall 0.50")
        phases = {"phase": "A", "pairs": 2, "loss": 2.0, "accuracy": 1.0}, {"phase": "B", "length": 64, "loss": 3.0}
        return [phases[0], phases[0], phases[1]]

    monkeypatch.setattr(module, "pretrain", quick_pretrain)


def test_saved_model_records_how_it_was_made(quick_parts, monkeypatch, make_tiny, corpus, tmp_path):
    fail_first(monkeypatch, 1)
    frame = make_mini("llama3", tmp_path / "made", seed=7, settings=QUICK)
    assert len(set(quick_parts)) == 2 and quick_parts[0] == 7
    assert frame["phase"].tolist() == ["A", "A", "B"]
    record = json.loads((tmp_path / "made" / "training.json").read_text())
    assert (record["model"], record["seed"], record["attempts"]) == ("llama3", 7, 2)
    assert record["steps"] == {"A": 2, "B": 1}
    assert record["corpus_sha256"] == corpus.sha256
    assert Curriculum(**record["curriculum"] | {"pairs": (1, 2)}) == QUICK
    # float16 on disk, float32 when loaded.
    stored = load_file(tmp_path / "made" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    network, expected = load(tmp_path / "made"), make_tiny(quick_parts[1]).half().float()
    assert network.dtype == torch.float32
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in expected.state_dict().items())


def test_mini_that_recalls_words_is_made_from_the_one_that_ships(quick_parts, monkeypatch, make_tiny, tmp_path):
    started, formats = [], []
    monkeypatch.setattr(module, "load", lambda model: started.append(model) or make_tiny(0))

    def quick_pretrain(network, text, facts, **options):
        formats.append(facts)
        assert options["settings"] == Curriculum(pairs=(), text_steps=300)
        return [{"phase": "B", "length": 64, "loss": 3.0}]

    monkeypatch.setattr(module, "pretrain", quick_pretrain)
    make_mini("llama3", tmp_path / "made", seed=7, fact_values="words")
    assert started == ["llama3"] and quick_parts == []
    keys, values = (set(ids.tolist()) for ids in (formats[0].keys, formats[0].values))
    assert not keys & values and abs(len(keys) - len(values)) <= 1
    training = json.loads((tmp_path / "made" / "training.json").read_text())
    assert training["fact_values"] == "words" and training["steps"] == {"B": 1}
    cells = {256: {"mean": 0.9, "prompts": 800}}
    text = card(training, {"recall": cells, "perplexity": 23.456}, n_parameters=918_656, rope_theta=500_000.0)
    assert "# Mini llama3-words" in text and "from mini llama3, which recalls numbers, by 1 steps" in text
    assert "`-p fact_values words -p retrain True`" in text


def test_no_successful_attempt_is_an_error_and_writes_nothing(quick_parts, monkeypatch, tmp_path):
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
        (
            {"pairs": (), "text_steps": 1, "adamw_learning_rate": 1e6},
            "the trained weights exceed the range of float16; lower ",
        ),
    ],
    ids=["phase A", "phase B", "weights"],
)
def test_training_that_diverges_is_an_error_and_writes_nothing(changes, message, quick_parts, tmp_path):
    with pytest.raises(DivergedError, match=message):
        make_mini("llama3", tmp_path / "made", settings=replace(QUICK, **changes))
    assert len(quick_parts) == 1, "another initialisation would not help"
    assert not (tmp_path / "made").exists()


def test_card_has_the_training_and_the_scores(quick_parts, monkeypatch, tmp_path):
    fail_first(monkeypatch, 0)
    make_mini("llama3", tmp_path / "made", seed=7, settings=QUICK)
    training = json.loads((tmp_path / "made" / "training.json").read_text())
    cells = {256: {"mean": 0.9375, "prompts": 800}, 4096: {"mean": 0.0125, "prompts": 200}}
    text = card(training, {"recall": cells, "perplexity": 23.456}, n_parameters=918_656, rope_theta=500_000.0)
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

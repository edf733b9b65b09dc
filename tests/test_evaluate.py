import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch

import longrecipe.evaluate as module
from longrecipe.evaluate import Reader, Report, interval, multi_value, niah_rows, perplexity, recall, report

SOURCE = np.arange(400, 600)
NIAH_TASKS = ("multi-key", "multi-query", "multi-value")


@pytest.fixture(scope="module")
def source(facts):
    return np.setdiff1d(SOURCE, np.concatenate([facts.keys, facts.values, facts.note, facts.recall, facts.stop]))


def make_oracle(facts, knows=lambda index, length: True):
    """A Reader that looks facts up in the text itself; knows says which, by the index of the value and the length."""

    class Oracle:
        def __init__(self, network, ids):
            self.ids = ids

        def known(self, row, key):
            ids, n = self.ids[row], len(facts.note)
            found = [i for i in np.flatnonzero(np.isin(ids, facts.values)) if ids[i - 1] == key]
            assert found and all(np.array_equal(ids[i - 1 - n : i - 1], facts.note) for i in found)
            return [ids[i] for i in found if knows(i, len(ids))]

        def ask(self, questions):
            assert all(np.array_equal(row[:-1], facts.recall) for row in questions)
            logits = torch.zeros(len(questions), 1024)
            # Who knows nothing says a full stop.
            logits[:, facts.stop[0]] = 0.5
            for row, question in enumerate(questions):
                logits[row, self.known(row, question[-1])] = 1.0
            return logits

        def converse(self, turns, stop):
            return np.stack([self.ask(turn).argmax(-1).numpy() for turn in turns], axis=1)

    return Oracle


# reading once, asking often


@pytest.fixture
def texts(rng):
    return rng.integers(0, 1024, size=(3, 40))


@torch.inference_mode()
def full_logits(network, ids):
    return network(input_ids=torch.from_numpy(ids), use_cache=False).logits[:, -1]


def test_asking_equals_a_forward_pass_over_everything(tiny, texts, rng):
    with torch.inference_mode():
        reader = Reader(tiny, texts)
        for width in (1, 6, 2):
            questions = rng.integers(0, 1024, size=(3, width))
            expected = full_logits(tiny, np.concatenate([texts, questions], axis=1))
            assert expected.std() > 0.1
            torch.testing.assert_close(reader.ask(questions), expected, rtol=1e-4, atol=1e-4)


def test_asking_twice_gives_the_same(tiny, texts, rng):
    questions, other = rng.integers(0, 1024, size=(2, 3, 5))
    with torch.inference_mode():
        reader = Reader(tiny, texts)
        first = reader.ask(questions)
        assert not torch.equal(reader.ask(other), first)
        reader.converse([other, questions], np.array([14]))
        assert torch.equal(reader.ask(questions), first)


def test_a_conversation_is_greedy_generation_step_by_step(tiny, texts, rng):
    turns, stop = list(rng.integers(0, 1024, size=(4, 3, 5))), np.array([14, 15])
    with torch.inference_mode():
        answers = Reader(tiny, texts).converse(turns, stop)
    context, expected = texts, []
    for turn in turns:
        context = np.concatenate([context, turn], axis=1)
        expected.append(full_logits(tiny, context).argmax(-1).numpy())
        context = np.concatenate([context, expected[-1][:, None], np.tile(stop, (3, 1))], axis=1)
    np.testing.assert_array_equal(answers, np.stack(expected, axis=1))
    assert len(np.unique(answers)) > 3


# recall


def test_an_oracle_recalls_everything_and_the_deaf_nothing(monkeypatch, source, facts, rng):
    for knows, expected in ((lambda *_: True, 1), (lambda *_: False, 0)):
        monkeypatch.setattr(module, "Reader", make_oracle(facts, knows))
        frame = recall(None, source, facts, 200, n_documents=7, n_facts=3, rng=rng)
        assert list(frame.columns) == ["length", "document", "depth", "correct", "in_conversation"]
        assert (frame[["correct", "in_conversation"]] == expected).all(axis=None)
        assert (frame["length"] == 200).all()
        assert frame["document"].value_counts().to_dict() == dict.fromkeys(range(7), 3)
        assert frame["depth"].between(0, 1, inclusive="left").all() and frame["depth"].nunique() > 10


@pytest.mark.parametrize("batch_tokens", [1, 500, 100_000])
def test_answers_are_booked_on_their_own_document_and_depth(monkeypatch, source, facts, rng, batch_tokens):
    monkeypatch.setattr(module, "BATCH_TOKENS", batch_tokens)
    # Knows the second half only: the value lies a note and a key behind the depth, which counts from the fact's start.
    later = len(facts.note) + 1
    monkeypatch.setattr(module, "Reader", make_oracle(facts, lambda index, length: index - later >= length / 2))
    frame = recall(None, source, facts, 300, n_documents=11, n_facts=4, rng=rng)
    np.testing.assert_array_equal(frame["correct"], (frame["depth"] >= 0.5).astype(int))
    np.testing.assert_array_equal(frame["in_conversation"], frame["correct"])
    assert 0 < frame["correct"].mean() < 1
    assert frame["document"].value_counts().to_dict() == dict.fromkeys(range(11), 4)


def test_a_conversation_fills_the_length_it_says(monkeypatch, source, facts, rng):
    seen = []

    class Measured(make_oracle(facts)):
        def converse(self, turns, stop):
            # Each turn, its answer, and a stop after all answers but the last.
            spoken = sum(turn.shape[1] + 1 for turn in turns) + (len(turns) - 1) * len(stop)
            seen.append(self.ids.shape[1] + spoken)
            return super().converse(turns, stop)

    monkeypatch.setattr(module, "Reader", Measured)
    recall(None, source, facts, 128, n_documents=2, n_facts=3, rng=rng)
    assert seen == [128]


def test_facts_beyond_the_length_are_refused(tiny, source, facts, rng):
    with pytest.raises(ValueError, match="9 facts need"):
        recall(tiny, source, facts, 100, n_documents=2, n_facts=9, rng=rng)


def test_recall_counts_the_models_own_argmax(tiny, source, facts, monkeypatch):
    hays, real = [], module.haystack
    monkeypatch.setattr(module, "haystack", lambda *args: hays.append(real(*args)) or hays[-1])
    frame = recall(tiny, source, facts, 64, n_documents=3, n_facts=2, rng=np.random.default_rng(4))
    value = hays[0].pairs[0, 1]
    truth = [int(hay.pairs[i, 1] == value) for i in range(2) for hay in hays]
    assert truth[0] == 1 and sum(truth) < 6
    # A head that says this one value whatever it is asked.
    biased = copy.deepcopy(tiny)
    biased.lm_head.bias = torch.nn.Parameter(1e4 * (torch.arange(1024) == value).float())
    again = recall(biased, source, facts, 64, n_documents=3, n_facts=2, rng=np.random.default_rng(4))
    assert again["correct"].tolist() == truth
    rest = ["length", "document", "depth"]
    pd.testing.assert_frame_equal(again[rest], frame[rest])


# NIAH(M)


def niah_means(monkeypatch, source, facts, knows):
    monkeypatch.setattr(module, "Reader", make_oracle(facts, knows))
    recalled = recall(None, source, facts, 300, n_documents=30, n_facts=4, rng=np.random.default_rng(0))
    valued = multi_value(None, source, facts, 300, n_documents=20, rng=np.random.default_rng(1))
    frame = niah_rows(recalled, valued)
    assert list(frame.columns) == ["length", "document", "task", "score"]
    counts = frame.groupby("task")["document"].nunique().to_dict()
    assert counts == {"multi-key": 30, "multi-query": 30, "multi-value": 20} and len(frame) == 80
    assert frame["score"].isin([0, 0.25, 0.5, 0.75, 1]).all()
    return frame.groupby("task")["score"].mean().to_dict()


def test_niah_is_one_for_an_oracle_and_zero_for_the_deaf(monkeypatch, source, facts):
    assert niah_means(monkeypatch, source, facts, lambda *_: True) == dict.fromkeys(NIAH_TASKS, 1.0)
    assert niah_means(monkeypatch, source, facts, lambda *_: False) == dict.fromkeys(NIAH_TASKS, 0.0)
    half = niah_means(monkeypatch, source, facts, lambda index, length: index >= length / 2)
    assert all(0.35 < score < 0.65 for score in half.values())


def test_niah_keeps_tasks_and_documents_apart():
    recalled = pd.DataFrame(
        {
            "length": 64,
            "document": [0, 0, 1, 1],
            "depth": 0.5,
            "correct": [1, 1, 1, 0],
            "in_conversation": [0, 0, 1, 0],
        }
    )
    valued = pd.DataFrame({"length": [64], "document": [0], "score": [0.25]})
    rows = niah_rows(recalled, valued).set_index(["task", "document"])["score"].to_dict()
    assert rows == {
        ("multi-key", 0): 1.0,
        ("multi-key", 1): 0.5,
        ("multi-query", 0): 0.0,
        ("multi-query", 1): 0.5,
        ("multi-value", 0): 0.25,
    }


def test_multi_value_wants_all_four(monkeypatch, source, facts):
    class Forgetful(make_oracle(facts)):
        def known(self, row, key):
            found = super().known(row, key)
            assert len(found) == 4
            return found[:1]

    monkeypatch.setattr(module, "Reader", Forgetful)
    frame = multi_value(None, source, facts, 256, n_documents=4, rng=np.random.default_rng(0))
    # One value known, and the other three largest logits are not values of this key but for a rare chance.
    assert frame["score"].mean() == 0.25


def test_a_conversation_asks_the_questions_asked_alone(tiny, source, facts, monkeypatch):
    asked, conversed = [], []

    class Watched(Reader):
        def ask(self, questions):
            asked.append(questions)
            return super().ask(questions)

        def converse(self, turns, stop):
            conversed.append((turns, stop))
            return super().converse(turns, stop)

    monkeypatch.setattr(module, "Reader", Watched)
    recall(tiny, source, facts, 256, n_documents=2, n_facts=4, rng=np.random.default_rng(0))
    ((turns, stop),) = conversed
    np.testing.assert_array_equal(stop, facts.stop)
    np.testing.assert_array_equal(np.stack(asked), np.stack(turns))
    keys = np.stack(asked)[:, :, -1]
    assert all(len(set(column)) == 4 for column in keys.T)


# perplexity


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary(tiny, rng):
    blank = copy.deepcopy(tiny)
    with torch.no_grad():
        for parameter in blank.parameters():
            parameter.zero_()
    assert perplexity(blank, rng.integers(0, 1024, size=200), 32) == pytest.approx(1024, rel=1e-4)


@pytest.mark.parametrize("batch_tokens", [1, 100, 16_384])
def test_perplexity_is_over_all_whole_windows(tiny, rng, monkeypatch, batch_tokens):
    monkeypatch.setattr(module, "BATCH_TOKENS", batch_tokens)
    ids = rng.integers(0, 1024, size=7 * 16 + 5)
    with torch.inference_mode():
        windows = torch.from_numpy(ids[: 7 * 16]).reshape(7, 16)
        logs = tiny(input_ids=windows, use_cache=False).logits[:, :-1].log_softmax(-1)
    expected = math.exp(-logs.gather(-1, windows[:, 1:, None]).double().mean().item())
    assert perplexity(tiny, ids, 16) == pytest.approx(expected, rel=1e-4)


def test_perplexity_needs_a_whole_window(tiny):
    with pytest.raises(ValueError, match="at 32 tokens needs a text at least that long, it has 31"):
        perplexity(tiny, np.zeros(31, dtype=np.int64), 32)


# intervals


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        # Documents differ, and the prompts of one document share its luck.
        chance = rng.beta(2, 2, size=40)
        frame = pd.DataFrame({"document": np.repeat(np.arange(40), 4), "correct": rng.random(160) < chance.repeat(4)})
        mean, low, high = interval(frame, "correct", rng, draws=500)
        assert low <= mean <= high and mean == pytest.approx(frame["correct"].mean())
        covered += low <= 0.5 <= high
    assert 0.88 < covered / 200 <= 0.99


def test_the_interval_is_over_documents_not_prompts():
    scores = np.random.default_rng(1).random(30)
    once = pd.DataFrame({"document": np.arange(30), "score": scores})
    often = pd.concat([once] * 5, ignore_index=True)
    expected = interval(once, "score", np.random.default_rng(2))
    assert interval(often, "score", np.random.default_rng(2)) == pytest.approx(expected)
    assert expected[2] - expected[1] > 0.1
    narrow = interval(once, "score", np.random.default_rng(2), level=0.5)
    assert expected[1] < narrow[1] < narrow[0] < narrow[2] < expected[2]


# the report


@pytest.fixture(scope="module")
def tiny_report(tiny, source, facts):
    return report(tiny, source, facts, [128, 192, 256], n_documents=2, n_facts=3, seed=5)


def test_a_report_measures_every_length(tiny_report, tiny, source):
    prompts = tiny_report.recall.groupby("length").size().to_dict()
    assert prompts == {128: 4 * 2 * 3, 192: 3, 256: 2 * 3}
    tasks = tiny_report.niah.groupby(["length", "task"])["document"].nunique().unstack("task")
    assert tasks["multi-key"].to_dict() == tasks["multi-query"].to_dict() == {128: 8, 256: 2}
    assert tasks["multi-value"].to_dict() == {128: 2, 256: 1}
    assert tiny_report.perplexity == pytest.approx(perplexity(tiny, source, 128))


def test_the_reports_numbers(tiny_report):
    numbers = tiny_report.numbers()
    assert set(numbers) == {"recall", "niah_m", "perplexity"}
    assert set(numbers["recall"]) == {128, 192, 256} and set(numbers["niah_m"]) == {128, 256}
    assert all(set(values) == {"mean", "low", "high", "prompts"} for values in numbers["recall"].values())
    assert all(set(v) == {"mean", "low", "high", *NIAH_TASKS} for v in numbers["niah_m"].values())
    assert numbers == tiny_report.numbers()


def test_numbers_are_means_of_the_rows():
    rows = pd.DataFrame({"length": 256, "document": [0, 0, 1, 1], "depth": 0.5, "correct": [1, 1, 1, 0]})
    niah = pd.DataFrame({"length": 256, "document": 0, "task": NIAH_TASKS, "score": [1.0, 0.75, 0.5]})
    made = Report(rows, niah, 12.5)
    numbers = made.numbers()
    assert numbers["recall"][256]["mean"] == made.recall_at(256) == 0.75
    assert numbers["recall"][256]["prompts"] == 4
    assert numbers["niah_m"][256] == {
        "mean": 0.75,
        "low": 0.75,
        "high": 0.75,
        "multi-key": 1.0,
        "multi-value": 0.5,
        "multi-query": 0.75,
    }
    assert numbers["perplexity"] == 12.5


def test_every_model_reads_the_same_documents_and_keeps_its_mode(make_tiny, source, facts, monkeypatch):
    read = {}

    class Watched(Reader):
        def __init__(self, network, ids):
            assert not network.training
            read.setdefault(id(network), []).append(ids)
            super().__init__(network, ids)

    monkeypatch.setattr(module, "Reader", Watched)
    networks = make_tiny(0), make_tiny(1).train()
    for network in networks:
        report(network, source, facts, [128, 192], n_documents=2, n_facts=2, seed=9)
    assert [network.training for network in networks] == [False, True]
    first, second = (read[id(network)] for network in networks)
    assert len(first) == len(second) > 2
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)

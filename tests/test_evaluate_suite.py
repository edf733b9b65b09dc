import copy
import functools
import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch

from longrecipe.data.english import reference_texts
from longrecipe.evaluate import (
    NIAH_M,
    Document,
    Question,
    Reader,
    ask,
    cell,
    common_words,
    interval,
    needles,
    passkey,
    planted,
    scoring,
    sentences,
    single,
    tracking,
)
from longrecipe.evaluate.questions import question as make_question
from longrecipe.evaluate.tasks import ASK, ASK_ALL, CLOSE, COMMON, LINK, LIST_OPENING, NOTE, WHICH

ALL = {"needles": needles, "single": single, "passkey": passkey, "tracking": tracking, "common_words": common_words}


def pattern(template):
    return (
        re.escape(template)
        .replace(r"\{value\}", r"( \d+)")
        .replace(r"\{key\}", "( [a-z-]+)")
        .replace(r"\{other\}", "( [a-z-]+)")
    )


def make_oracle(wording, knows=lambda share: True, most=100):
    """A Reader that reads the text, not a network; knows says which notes, by where they start as a share of the text.

    Of several answers it knows the first `most`.
    """

    class Oracle:
        def __init__(self, network, ids):
            self.ids, self.texts = ids, [wording.decode(row) for row in ids]

        def noted(self, row):
            for match in re.finditer(pattern(wording.text(NOTE)), self.texts[row]):
                note = wording.encode(match[0])
                windows = np.lib.stride_tricks.sliding_window_view(self.ids[row], len(note))
                (start,) = np.flatnonzero((windows == note).all(axis=1))
                if knows(start / len(self.ids[row])):
                    yield match[1], match[2]

        def answers(self, row, question):
            """The known answers to a question, as texts; a full stop where there are none."""
            text, found = self.texts[row], []
            if question == wording.text(COMMON):
                listed = re.findall(" [a-z-]+", text[len(wording.decode(wording.opening(LIST_OPENING))) :])
                found = [word for word, _ in Counter(listed).most_common(4)] if knows(1) else []
            elif wording.kind == "sentences" and question.startswith(wording.text(ASK_ALL).split("{key}")[0]):
                keys = re.findall(" [a-z]+-[a-z]+", question)
                found = [value for key, value in self.noted(row) if key in keys]
            elif match := re.fullmatch(f"{pattern(wording.text(ASK))}|{pattern(wording.text(ASK_ALL))}", question):
                keys = [key for key in match.groups() if key]
                found = [value for key, value in self.noted(row) if key in keys]
            elif match := re.fullmatch(pattern(wording.text(WHICH)), question):
                found = [key for key, value in self.noted(row) if value == match[1]]
                for key, other in re.findall(pattern(wording.text(LINK)), text):
                    found += [key] * (other in found)
            return found[:most] or [wording.text(CLOSE)]

        def ask(self, questions, last=1):
            logits = torch.zeros(len(questions), last, 1024)
            for row, asked in enumerate(questions):
                text = wording.decode(asked[: len(asked) - last + 1])
                for answer in self.answers(row, text):
                    given = wording.answer(text, answer)[:last]
                    logits[row, range(len(given)), given] = 1.0
            return logits

        def generate(self, questions, n_tokens):
            rows = []
            for row, asked in enumerate(questions):
                text = wording.decode(asked)
                said = wording.answer(text, ", and".join(self.answers(row, text)))
                rows.append(np.append(said, np.tile(wording.encode(wording.text(CLOSE)), n_tokens))[:n_tokens])
            return np.stack(rows)

        def converse(self, turns, n_tokens, close):
            return np.stack([self.generate(turn, n_tokens) for turn in turns], axis=1)

    return Oracle


def asked_by(monkeypatch, reader, wording, make, source, length=900, count=6, seed=0, batch_tokens=10_000):
    monkeypatch.setattr(scoring, "Reader", reader)
    monkeypatch.setattr(scoring, "texts_at_once", lambda network, length: max(1, batch_tokens // length))
    rng = np.random.default_rng(seed)
    return ask(None, wording, make, source=source, length=length, n_documents=count, rng=rng)


# who knows what


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_oracle_scores_1_and_model_without_knowledge_0(monkeypatch, wording, prose, make):
    for knows, expected in ((lambda share: True, 1), (lambda share: False, 0)):
        frame = asked_by(monkeypatch, make_oracle(wording, knows), wording, make, prose)
        assert list(frame.columns) == ["task", "length", "document", "depth", "score"]
        assert (frame["score"] == expected).all() and (frame["length"] == 900).all()
        counts = frame.groupby("task")["document"].value_counts()
        if make is needles:
            assert counts["multi-key"].to_dict() == dict.fromkeys(range(6), 4)
            queries = 4 if wording.kind == "planted" else 1
            assert counts["multi-query"].to_dict() == dict.fromkeys(range(6), queries)
            assert counts["multi-value"].to_dict() == dict.fromkeys(range(6), 1)
            assert set(frame["task"]) == set(NIAH_M)
        else:
            name = make.__name__.replace("_", " ").replace("tracking", "variable tracking")
            assert counts[name].to_dict() == dict.fromkeys(range(6), 1) and len(frame) == 6


@pytest.mark.parametrize("batch_tokens", [1, 2000, 100_000])
def test_scores_belong_to_their_document_and_depth(monkeypatch, wording, prose, batch_tokens):
    later = make_oracle(wording, lambda share: share >= 0.5)
    three = functools.partial(needles, n_keys=3)
    frame = asked_by(monkeypatch, later, wording, three, prose, count=11, batch_tokens=batch_tokens)
    # The text of a prompt is shorter than its length, which counts the conversation: depths are shares of the text.
    placed = frame.dropna(subset="depth")
    assert placed["depth"].between(0, 1, inclusive="left").all() and placed["depth"].nunique() > 25
    np.testing.assert_array_equal(placed["score"], (placed["depth"] >= 0.5).astype(float))
    assert 0.2 < placed["score"].mean() < 0.8
    assert placed.groupby("task")["document"].value_counts().eq(3).all() and placed["document"].nunique() == 11
    depths = [rows["depth"].tolist() for _, rows in placed.sort_values("document", kind="stable").groupby("task")]
    assert len(depths) == (2 if wording.kind == "planted" else 1)
    assert depths[0] == depths[-1], "one by one and in a conversation: the same facts of the same documents"


def test_documents_are_scored_alike_one_by_one_and_together(monkeypatch, tiny, tokenizer):
    short, frames = planted(tokenizer), []
    source = short.encode("\n".join(reference_texts())[:60_000])
    for at_once in (1, 2, 5):
        monkeypatch.setattr(scoring, "texts_at_once", lambda network, length, at_once=at_once: at_once)
        options = {"source": source, "length": 900, "n_documents": 5, "rng": np.random.default_rng(0)}
        frame = ask(tiny, short, needles, **options)
        frames.append(frame.sort_values(["task", "document", "depth"], ignore_index=True))
    for frame in frames[1:]:
        pd.testing.assert_frame_equal(frame, frames[0])
    assert len(frames[0]) == 5 * 9 and set(frames[0]["document"]) == set(range(5))


@pytest.mark.parametrize(("make", "task"), [(needles, "multi-value"), (tracking, None), (common_words, None)])
def test_several_answers_score_the_share_that_is_given(monkeypatch, wording, prose, make, task):
    for most in (1, 3):
        frame = asked_by(monkeypatch, make_oracle(wording, most=most), wording, make, prose)
        scores = frame.query(f"task == {task!r}")["score"] if task else frame["score"]
        # The other largest logits are not among the answers but for a rare chance.
        assert (scores == most / 4).all()


# what is read and asked


def fixed(documents):
    left = iter(documents)
    return lambda wording, source, length, rng: next(left)


def scores_of(network, wording, texts, questions):
    documents = [Document(text, (each,)) for text, each in zip(texts, questions, strict=True)]
    options = {"source": None, "length": 60, "n_documents": len(texts), "rng": None}
    return ask(network, wording, fixed(documents), **options)["score"].tolist()


def test_answers_of_one_token_are_searched_in_the_largest_logits(tiny, wording, rng):
    texts, questions = rng.integers(0, 1024, size=(3, 40)), rng.integers(0, 1024, size=(3, 5))
    with torch.inference_mode():
        ranks = Reader(tiny, texts).ask(questions)[:, -1].argsort(descending=True).numpy()

    def scores(*places):
        pairs = zip(ranks, questions, places, strict=True)
        return scores_of(
            tiny, wording, texts, [Question("any", ids, tuple(row[[p]] for p in each)) for row, ids, each in pairs]
        )

    assert scores([0], [1], [0]) == [1, 0, 1]
    assert scores([2, 0, 1], [0, 3, 900], [5, 6, 2]) == pytest.approx([1, 1 / 3, 1 / 3])


@pytest.mark.parametrize(
    ("said", "answers", "score"),
    [
        (" 1234567.", [" 1234567"], 1),
        (": 1234567 and more", [" 1234567"], 1),
        (" 12345678.", [" 1234567"], 0),
        (" pointer", [" point"], 0),
        (" the Point!", [" point"], 1),
        (" 3333333, 1111111, and 9999999", [" 1111111", " 2222222", " 3333333"], 2 / 3),
        (" no", [" 1111111", " 2222222"], 0),
    ],
)
def test_longer_answers_count_as_whole_words_anywhere_in_the_continuation(monkeypatch, bpe, said, answers, score):
    wording, asked = sentences(bpe), []

    class Says:
        def __init__(self, network, ids):
            pass

        def generate(self, questions, n_tokens):
            asked.append(n_tokens)
            return wording.encode(said)[None]

    monkeypatch.setattr(scoring, "Reader", Says)
    monkeypatch.setattr(scoring, "texts_at_once", lambda network, length: 1)
    question = make_question(wording, "any", "\nWhich?", answers)
    assert scores_of(None, wording, [np.arange(40)], [question]) == pytest.approx([score])
    assert asked == [question.n_tokens] and asked[0] == sum(map(len, question.answers)) + 8 * len(answers)


def test_conversation_has_the_questions_that_are_asked_one_by_one(tiny, tokenizer, monkeypatch):
    wording, prose = planted(tokenizer), np.arange(900)
    asked, conversed = [], []

    class Watched(Reader):
        def ask(self, questions, last=1):
            asked.append(questions[:, : questions.shape[1] - last + 1])
            return super().ask(questions, last)

        def converse(self, turns, n_tokens, close):
            conversed.append((turns, n_tokens, close))
            return super().converse(turns, n_tokens, close)

    monkeypatch.setattr(scoring, "Reader", Watched)
    ask(tiny, wording, needles, source=prose, length=400, n_documents=2, rng=np.random.default_rng(0))
    ((turns, n_tokens, close),) = conversed
    assert wording.decode(close) == wording.text(CLOSE)
    assert n_tokens == len(wording.encode(wording.values[0]))
    np.testing.assert_array_equal(np.stack(asked[:4]), np.stack(turns))
    assert all(len({turn[row].tobytes() for turn in turns}) == 4 for row in range(2))


def test_conversation_fills_the_length(tiny, tokenizer, monkeypatch):
    wording, prose = planted(tokenizer), np.arange(900)
    seen = []

    class Measured(Reader):
        def _forward(self, ids, last=1):
            out = super()._forward(ids, last)
            seen.append(self.cache.get_seq_length())
            return out

    monkeypatch.setattr(scoring, "Reader", Measured)
    make = functools.partial(needles, n_values=0)
    ask(tiny, wording, make, source=prose, length=256, n_documents=2, rng=np.random.default_rng(0))
    # The last token of the last answer is given, and never read.
    assert max(seen) == 256 - 1


def test_scores_follow_the_models_argmax(tiny, tokenizer, rng):
    wording, made = planted(tokenizer), []
    source = wording.encode(" " + "so on and on" * 20)

    def watched(*args):
        made.append(needles(*args, n_keys=2))
        return made[-1]

    # A head that says one value whatever it is asked.
    value = wording.encode(wording.values[7])[0]
    biased = copy.deepcopy(tiny)
    biased.lm_head.bias = torch.nn.Parameter(1e4 * (torch.arange(1024) == value).float())
    frame = ask(biased, wording, watched, source=source, length=90, n_documents=60, rng=rng)
    truth = [float(question.answers[0][0] == value) for document in made for question in document.questions[:2]]
    for asked in ("multi-key", "multi-query"):
        rows = frame[frame["task"] == asked].sort_values("document", kind="stable")
        assert rows["score"].tolist() == truth
        assert rows["depth"].tolist() == [question.depth for document in made for question in document.turns]
    assert 0 < sum(truth) < 20
    several = frame.query("task == 'multi-value'")["score"].to_numpy()
    has = np.array([value in np.ravel(document.questions[-1].answers) for document in made])
    assert has.any() and (several[has] >= 0.25).all()


# intervals


def frame_of(scores, prompts=1, task="any"):
    documents = np.repeat(np.arange(len(scores)), prompts)
    return pd.DataFrame({"task": task, "document": documents, "score": np.asarray(scores, dtype=float)[documents]})


@pytest.mark.parametrize("tasks", [["multi-key"], list(NIAH_M)])
def test_interval_covers_the_mean_at_its_level(tasks):
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        # Documents differ, and the prompts and tasks of one document share its luck.
        chance = rng.beta(2, 2, size=40)
        frame = pd.concat([frame_of(chance, 4, task) for task in tasks])
        frame["score"] = (rng.random(len(frame)) < frame["score"]).astype(float)
        mean, low, high = interval(frame, rng, draws=500)
        assert low <= mean <= high and mean == pytest.approx(frame["score"].mean())
        covered += low <= 0.5 <= high
    assert 0.88 < covered / 200 <= 0.99


def test_interval_is_over_documents_not_prompts():
    scores = np.random.default_rng(1).random(30)
    expected = interval(frame_of(scores), np.random.default_rng(2))
    assert interval(frame_of(scores, 5), np.random.default_rng(2)) == pytest.approx(expected)
    both = pd.concat([frame_of(scores, task="a"), frame_of(scores, 3, task="b")])
    assert interval(both, np.random.default_rng(2)) == pytest.approx(expected), "the same luck twice is no more luck"
    assert expected[2] - expected[1] > 0.1
    narrow = interval(frame_of(scores), np.random.default_rng(2), level=0.5)
    assert expected[1] < narrow[1] < narrow[0] < narrow[2] < expected[2]


def test_tasks_have_equal_weight_at_any_number_of_prompts(rng):
    frame = pd.concat([frame_of([1, 1, 0, 1], 5, "multi-key"), frame_of([0, 0.25, 0, 0], 1, "multi-value")])
    measured = cell(frame, rng)
    assert measured["mean"] == pytest.approx((0.75 + 0.0625) / 2) and measured["prompts"] == 24
    assert set(measured) == {"mean", "low", "high", "prompts"} and measured["low"] < measured["mean"] < measured["high"]


def test_single_answer_tasks_have_wilson_intervals(rng):
    # Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20, and all of 29 by symmetry to 0 of 29.
    for hits, trials, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)):
        measured = cell(frame_of([1] * hits + [0] * (trials - hits), task="passkey"), rng)
        assert measured["mean"] == pytest.approx(hits / trials) and measured["prompts"] == trials
        assert (measured["low"], measured["high"]) == pytest.approx((low, high), abs=1e-4)
    assert cell(frame_of([1] * 29, task="single"), rng)["low"] == pytest.approx(1 - 0.1170, abs=1e-4)
    for trials in range(1, 100):
        for score in (0, 1):
            measured = cell(frame_of([score] * trials, task="passkey"), rng)
            assert 0 <= measured["low"] <= measured["mean"] == score <= measured["high"] <= 1
    # Of other tasks, several questions share a document.
    frame = frame_of([1, 0, 1, 1], task="multi-key")
    assert tuple(cell(frame, np.random.default_rng(0)).values())[:3] == interval(frame, np.random.default_rng(0))

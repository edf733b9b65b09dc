import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import longrecipe.tokens as module
from longrecipe.tokens import CLASSES, analyse, scores, token_classes


def random_documents(rng, count=5, length=12):
    return rng.integers(0, 1024, size=(count, length))


@torch.inference_mode()
def by_full_logits(network, documents):
    ids = torch.from_numpy(documents)
    logits = network(input_ids=ids, use_cache=False).logits[:, :-1]
    return logits.gather(-1, ids[:, 1:, None])[..., 0].numpy()


# scores


def test_scores_are_the_logits_of_the_tokens_that_come(tiny, rng):
    documents = random_documents(rng)
    found = scores(tiny, documents)
    assert found.shape == (5, 11) and found.dtype == np.float32
    np.testing.assert_allclose(found, by_full_logits(tiny, documents), rtol=1e-4, atol=1e-5)
    assert found.std() > 0.1


def test_the_head_is_never_run(tiny, rng, monkeypatch):
    def refuse(*args):
        raise AssertionError("logits of the whole vocabulary were built")

    monkeypatch.setattr(tiny.lm_head, "forward", refuse)
    documents = random_documents(rng)
    with pytest.raises(AssertionError, match="whole vocabulary"):
        tiny(input_ids=torch.from_numpy(documents))
    assert scores(tiny, documents).shape == (5, 11)


def test_a_bias_of_the_head_counts(tiny, rng):
    network = copy.deepcopy(tiny)
    network.lm_head.bias = torch.nn.Parameter(torch.from_numpy(rng.normal(size=1024)).float())
    documents = random_documents(rng)
    np.testing.assert_allclose(scores(network, documents), by_full_logits(network, documents), rtol=1e-4, atol=1e-5)


def test_batches_do_not_matter(tiny, rng, monkeypatch):
    documents = random_documents(rng)
    whole = scores(tiny, documents)
    for most in (1, 24, 36):
        monkeypatch.setattr(module, "BATCH_TOKENS", most)
        np.testing.assert_allclose(scores(tiny, documents), whole, rtol=1e-4, atol=1e-5)


# classes


def test_every_token_has_the_class_of_its_text(tokenizer):
    classes = token_classes(tokenizer)
    assert len(classes) == len(tokenizer) and classes.dtype == np.int64
    words = {
        " 42": "number",
        " the": "word",
        " The": "capitalised word",
        "ing": "word part",
        ".": "punctuation",
        "\n": "newline",
        " ": "other",
    }
    for text, expected in words.items():
        (token,) = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert CLASSES[classes[token]] == expected, text


# analysis


@pytest.fixture
def hand_made(monkeypatch):
    """Four documents of three tokens and two models whose scores are given; types: 0 dull, 1 keen, 2 never there."""
    documents = np.array([[0, 1, 3], [0, 2, 4], [0, 3, 1], [0, 4, 2]])
    type_of_id = np.array([0, 1, 0, 0, 0])
    before = np.array([[1, 2], [3, 4], [5, 6], [7, 8]], dtype=np.float32)
    # Token 1 gains 9 and 7; token 3 gains 3 in the first document; every other gains 1 or nothing.
    shift = np.array([[9, 3], [1, 0], [0, 7], [1, 1]], dtype=np.float32)
    base, longer = (SimpleNamespace(config=SimpleNamespace(vocab_size=5)) for _ in range(2))
    monkeypatch.setattr(module, "scores", lambda network, _: before if network is base else before + shift)
    return base, longer, documents, type_of_id, shift


def test_analyse_ranks_by_lift(hand_made):
    base, longer, documents, type_of_id, shift = hand_made
    found = analyse(base, longer, documents, type_of_id, ["dull", "keen", "absent"], top_share=0.25)
    np.testing.assert_array_equal(found.shift, shift)
    keen, dull = found.ranking.to_dict("records")
    assert keen == {
        "type": "keen",
        "count": 2,
        "share_of_all": 0.25,
        "share_of_top": 1.0,
        "lift": 4.0,
        "mean_shift": 8.0,
        "sum_shift": 16.0,
    }
    assert dull == {
        "type": "dull",
        "count": 6,
        "share_of_all": 0.75,
        "share_of_top": 0.0,
        "lift": 0.0,
        "mean_shift": 1.0,
        "sum_shift": 6.0,
    }
    assert found.anchors(1) == ["keen"] and found.anchors(2) == ["keen", "dull"]
    assert found.by_position.to_dict("list") == {"dull": [0.0, 0.0], "keen": [1.0, 1.0], "absent": [0.0, 0.0]}


def test_the_top_is_taken_at_every_position(hand_made):
    base, longer, documents, type_of_id, _ = hand_made
    found = analyse(base, longer, documents, type_of_id, ["dull", "keen"], top_share=0.5)
    # Two of four a position: the keen token and the next largest shift.
    assert found.by_position.to_dict("list") == {"dull": [0.5, 0.5], "keen": [0.5, 0.5]}
    assert found.ranking.set_index("type")["share_of_top"].to_dict() == {"keen": 0.5, "dull": 0.5}
    assert found.ranking.set_index("type")["lift"].to_dict() == {"keen": 2.0, "dull": pytest.approx(2 / 3)}


def test_lift_is_not_frequency(hand_made, monkeypatch):
    base, longer, documents, _, shift = hand_made
    # Tokens 1, 2, 1, 3 are in the top: three of four are of type 1, as are six of all eight. No more than its share.
    type_of_id = np.array([0, 1, 1, 0, 1])
    monkeypatch.setattr(module, "scores", lambda network, _: np.zeros_like(shift) if network is base else shift)
    ranking = analyse(base, longer, documents, type_of_id, ["rare", "frequent"], top_share=0.5).ranking
    assert ranking.set_index("type")["share_of_all"].to_dict() == {"rare": 0.25, "frequent": 0.75}
    assert ranking.set_index("type")["lift"].to_dict() == {"rare": 1.0, "frequent": 1.0}


def test_a_real_pair_of_models(make_tiny, tokenizer, rng):
    base, longer = make_tiny(0), make_tiny(1)
    documents = random_documents(rng, count=20, length=16)
    found = analyse(base, longer, documents, token_classes(tokenizer), CLASSES)
    expected = by_full_logits(longer, documents) - by_full_logits(base, documents)
    np.testing.assert_allclose(found.shift, expected, rtol=1e-3, atol=1e-4)
    assert found.by_position.shape == (15, len(CLASSES))
    np.testing.assert_allclose(found.by_position.sum(axis=1), 1)
    assert found.ranking["count"].sum() == 20 * 15
    assert found.ranking["sum_shift"].sum() == pytest.approx(found.shift.sum(), rel=1e-3)
    assert (found.ranking["lift"].diff().dropna() <= 0).all()
    same = analyse(base, base, documents, token_classes(tokenizer), CLASSES)
    assert not same.shift.any()


def test_models_of_two_families_are_refused(hand_made):
    base, longer, documents, type_of_id, _ = hand_made
    longer.config.vocab_size = 7
    with pytest.raises(ValueError, match="H has 5 vocabulary entries, H' 7"):
        analyse(base, longer, documents, type_of_id, ["dull", "keen"])


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_too_few_documents_are_refused_with_how_many_would_do(hand_made, share):
    base, longer, documents, type_of_id, _ = hand_made
    with pytest.raises(ValueError, match=f"4 documents at top_share = {share}.*at least") as error:
        analyse(base, longer, documents, type_of_id, ["dull", "keen"], top_share=share)
    enough = int(str(error.value).split("at least ")[1].split()[0])
    assert round(share * enough) >= 1 and enough <= math.ceil(1 / share)

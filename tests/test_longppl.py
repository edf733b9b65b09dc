"""LongPPL: which tokens are chosen, what the short context is and costs, and the mean over the chosen tokens."""

import math

import numpy as np
import pytest
import torch

from longrecipe.evaluate import key_tokens, long_perplexity
from longrecipe.tokens import short_context_losses, token_losses


@pytest.fixture
def texts(rng):
    return rng.integers(0, 1024, size=(3, 24))


@torch.inference_mode()
def last_loss(network, ids):
    """The loss of the last token of a text, from all logits."""
    logits = network(input_ids=torch.from_numpy(ids[None]), use_cache=False).logits[0, -2].float()
    return -logits.log_softmax(-1)[ids[-1]].item()


def test_losses_are_those_of_full_logits(tiny, texts):
    expected = [[last_loss(tiny, text[: t + 1]) for t in range(1, 24)] for text in texts]
    np.testing.assert_allclose(token_losses(tiny, texts), expected, atol=1e-4)


@pytest.mark.parametrize(("length", "context"), [(24, 4), (24, 12), (23, 4), (9, 4), (8, 4), (5, 1)])
def test_a_short_context_has_one_to_two_times_the_tokens_asked_for(tiny, texts, length, context):
    texts = texts[:, :length]
    found = short_context_losses(tiny, texts, context)
    assert found.shape == (3, length - 1)
    # Every token is read from the start of the window that scores it.
    starts = [*range(0, length - 2 * context, context), length - 2 * context]
    for t in range(1, length):
        start = next(start for start in starts if t < start + 2 * context)
        assert min(t, context) <= t - start < 2 * context
        expected = [last_loss(tiny, text[start : t + 1]) for text in texts]
        np.testing.assert_allclose(found[:, t - 1], expected, atol=1e-4)


@pytest.mark.parametrize(("length", "context"), [(24, 4), (24, 2), (24, 12)])
def test_a_short_context_costs_a_forward_pass_of_twice_the_tokens(make_tiny, texts, length, context):
    network, read = make_tiny(), []
    # The check of the model reads one text of 4 tokens.
    network.get_input_embeddings().register_forward_hook(lambda module, given, out: read.append(given[0].shape))
    short_context_losses(network, texts, context)
    sizes = [rows * tokens for rows, tokens in read]
    assert sizes[:2] == [4, 4] and sum(sizes[2:]) == 3 * 2 * (length - context)
    assert all(tokens == 2 * context for _, tokens in read[2:])


@pytest.mark.parametrize("context", [0, 13])
def test_a_context_above_half_of_the_text_is_refused(tiny, texts, context):
    with pytest.raises(ValueError, match=rf"^context = {context}: must be 1 to 12, half of a text of 24 tokens"):
        short_context_losses(tiny, texts, context)


FULL = np.array([[1.0, 1.0, 2.5, 0.5], [0.5, 1.5, 0.0, 3.0]])
SHORT = np.array([[3.5, 2.5, 9.0, 2.5], [0.0, 4.0, 2.25, 9.0]])


def test_tokens_are_chosen_that_gain_and_are_predicted_well():
    # The gains are 2.5, 1.5, 6.5, 2.0 and -0.5, 2.5, 2.25, 6.0; two gains are those of tokens with a loss above 2.
    assert key_tokens(FULL, SHORT).tolist() == [[True, False, False, False], [False, True, True, False]]
    assert key_tokens(FULL, SHORT, least_gain=1.0, most_loss=3.5).sum() == 7
    assert not key_tokens(FULL, FULL).any()


def test_longppl_is_the_perplexity_of_the_chosen_tokens():
    chosen = key_tokens(FULL, SHORT)
    found = long_perplexity(FULL, chosen)
    assert (found.n_tokens, found.share) == (3, 3 / 8)
    assert found.longppl[0] == pytest.approx(math.exp((1.0 + 1.5 + 0.0) / 3))
    assert found.perplexity == pytest.approx(math.exp(10 / 8))
    # A draw has the first document only, the second only, or both.
    assert found.longppl[1:] == pytest.approx((math.exp(0.75), math.exp(1.0)))
    other = long_perplexity(FULL + 1, chosen)
    assert other.longppl == pytest.approx(tuple(math.e * end for end in found.longppl))


def test_there_is_no_longppl_without_chosen_tokens_and_no_interval_of_one_document():
    none = long_perplexity(FULL, np.zeros(FULL.shape, dtype=bool))
    assert np.isnan(none.longppl).all() and none.n_tokens == 0 and none.perplexity > 1
    one = long_perplexity(FULL[:1], np.ones((1, 4), dtype=bool))
    assert one.longppl[0] == pytest.approx(one.perplexity) and np.isnan(one.longppl[1:]).all()
    # A document without a chosen token is no reason for a NaN.
    some = long_perplexity(FULL, np.array([[True] * 4, [False] * 4]))
    assert np.isfinite(some.longppl).all()


@pytest.mark.parametrize("measure", [key_tokens, long_perplexity])
def test_losses_of_other_tokens_are_refused(measure):
    with pytest.raises(ValueError, match=r"shapes \(2, 4\) and \(2, 3\) must be equal"):
        measure(FULL, SHORT[:, 1:])


def test_a_model_that_caps_its_logits_is_refused(make_tiny, texts):
    network = make_tiny()
    network.register_forward_hook(lambda module, given, out: out | {"logits": out.logits.tanh()})
    with pytest.raises(ValueError, match=r"^the model \(llama\) scales or caps its logits"):
        token_losses(network, texts)

"""The card of a model: what it says, and that it says nothing that was not measured."""

import yaml

from longrecipe import models, params
from longrecipe.card import NOT_MEASURED, card
from longrecipe.rope import extend_config

TEXTS = {"text": "abc", "replay text": "def"}


def made(numbers=None, **changes):
    p = params.load("llama3", "paper", **changes)
    return card(p, extend_config(models.config_of("llama3", "paper"), p.target_length), TEXTS, numbers)


def test_it_names_the_base_and_the_recipe():
    text = made()
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["base_model"] == "meta-llama/Meta-Llama-3-8B-Instruct"
    assert "# llama3, 131,072 tokens" in body and NOT_MEASURED in body
    assert "| RoPE base | 131,460,973 |" in body and "| replay text, SHA-256 | `def` |" in body
    assert "samples of 38,400 tokens (29% of T)" in body
    assert "| stage 1, extension | 104 steps of 96 samples, learning rate 5e-05" in body
    # A folder of one's own is no hub's id, and its place is nobody's business.
    own = made(weights="/home/me/models/my-model")
    assert "anchored" in own and "anchored" not in made(method="pose")
    assert "base_model" not in own and "| base model | my-model |" in own and "/home/me" not in own


def test_it_shows_what_was_measured_by_length_and_what_is_kept():
    def of(short, long, perplexity, tasks):
        return {"niah_m": {8192: {"mean": short}, 131072: {"mean": long}}, "perplexity": perplexity, "tasks": tasks}

    none = {8192: {}, 131072: {}}
    text = made({"base": of(0.8, 0.0, 8.0, none), "merged": of(0.9, 0.75, 8.08, none)})
    assert "| merged | 0.900 | 0.750 | 8.08 | 99.0% |" in text and "| base | 0.800 | 0.000 | 8.00 | 100.0% |" in text
    assert NOT_MEASURED not in text and "passkey," not in text and "needles in held-out text" in text
    noise = made({"base": of(0.8, 0.0, 8.0, none)}, eval_haystack="noise")
    assert "needles in a passage repeated" in noise and "held-out" not in noise
    asked = [{131072: {"passkey": {"mean": mean, "prompts": 8}}, 8192: {}} for mean in (0.0, 0.875)]
    numbers = {"base": of(0.8, 0.0, 8.0, asked[0]), "merged": of(0.9, 0.75, 8.08, asked[1])}
    text = made(numbers)
    assert "| NIAH(M), 131,072 tokens | passkey, 131,072 tokens | perplexity |" in text
    assert "| merged | 0.900 | 0.750 | 7 of 8 | 8.08 | 99.0% |" in text
    # As read from metrics.json, where lengths are strings.
    told = {
        stage: each | {name: {str(n): v for n, v in each[name].items()} for name in ("niah_m", "tasks")}
        for stage, each in numbers.items()
    }
    assert made(told) == text

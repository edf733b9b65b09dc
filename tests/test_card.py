"""The model card."""

import yaml

from longrecipe import models, settings
from longrecipe.families import FAMILIES
from longrecipe.models.rope import extend_config
from longrecipe.recipe.card import NOT_MEASURED, Origin, card, display_name, origin
from longrecipe.system.paths import split_revision

TEXTS = {"text": "abc", "replay text": "def"}


LLAMA = Origin(
    *[split_revision(FAMILIES["llama3"].hub_id)[0]] * 2, {"license": "llama3"}, "bfloat16", "LlamaForCausalLM"
)
OWN = Origin("my-model", None, {}, "float16", "LlamaForCausalLM")


def made(numbers=None, base=LLAMA, commits=None, **changes):
    p = settings.load("llama3", "paper", **changes)
    config = extend_config(models.config_of("llama3", "paper"), p.target_length)
    return card(p, config, TEXTS, base=base, numbers=numbers, commits=commits)


def test_card_names_the_base_and_the_recipe():
    text = made()
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["base_model"] == "meta-llama/Meta-Llama-3-8B-Instruct"
    assert "# llama3, 131,072 tokens" in body and NOT_MEASURED in body
    assert "| RoPE base | 131,460,973 |" in body and "| replay text, SHA-256 | `def` |" in body
    assert "samples of 38,400 tokens (29% of T)" in body
    assert "| stage 1, extension | 104 steps of 96 samples, learning rate 5e-05" in body
    # A folder is not a hub id, and its path is not shown.
    own = made(base=OWN, weights="/home/me/models/my-model")
    assert "# my-model, 131,072 tokens" in own and "| licence | not stated |" in own and "| dtype | float16 |" in own
    assert "anchored" in own and "anchored" not in made(method="pose")
    assert "base_model" not in own and "| base model | my-model |" in own and "/home/me" not in own


def test_origin_of_known_models_has_their_hub_id(tmp_path):
    shipped = origin(settings.load("llama3"), models.folder_of("llama3"))
    assert shipped == Origin("llama3", None, {"license": "apache-2.0"}, "float16", "LlamaForCausalLM")
    # The name decides, not the content of the folder.
    small = origin(settings.load("smollm2", "small"), models.folder_of("llama3"))
    assert small.hub_id == small.name == "HuggingFaceTB/SmolLM2-135M-Instruct"
    hub = origin(settings.load("llama3", "paper", weights="me/own-1.5B"), models.folder_of("llama3"))
    assert hub.hub_id == hub.name == "me/own-1.5B"
    assert "base_model: me/own-1.5B" in made(base=hub, weights="me/own-1.5B")


def test_card_shows_commits_and_no_revision_in_names():
    p = settings.load("llama3", "paper", weights="me/own-1.5B@main")
    hub = origin(p, models.folder_of("llama3"))
    assert hub.hub_id == hub.name == "me/own-1.5B" and display_name(p) == "own-1.5B"
    text = made(base=hub, weights="me/own-1.5B@main", commits={"me/own-1.5B": "0f3c"})
    assert "| revision of me/own-1.5B | `0f3c` |" in text and "@" not in text and "revision of" not in made()


def test_own_model_does_not_get_the_name_of_a_params_file():
    assert display_name(settings.load("smollm2", "small")) == "smollm2"
    for weights in ("/models/their model/", "me/their model"):
        assert display_name(settings.load("smollm2", "small", weights=weights)) == "their model"
    assert display_name(settings.load("smollm2", "small", weights="me/own-1.5B")) == "own-1.5B"
    named = settings.load("smollm2", "small", weights="/models/base").model_copy(update={"model": "mine"})
    assert display_name(named) == "mine"


def test_card_shows_scores_by_length_and_kept_perplexity():
    def of(short, long, perplexity, tasks):
        return {"niah_m": {8192: {"mean": short}, 131072: {"mean": long}}, "perplexity": perplexity, "tasks": tasks}

    none = {8192: {}, 131072: {}}
    text = made({"base": of(0.8, 0.0, 8.0, none), "merged": of(0.9, 0.75, 8.08, none)})
    assert "| merged | 0.900 | 0.750 | 8.08 | 99.0% |" in text and "| base | 0.800 | 0.000 | 8.00 | 100.0% |" in text
    assert NOT_MEASURED not in text and "passkey," not in text and "needles in held-out text" in text
    noise = made({"base": of(0.8, 0.0, 8.0, none)}, eval_haystack="noise")
    assert "needles in a repeated passage" in noise and "held-out" not in noise
    asked = [{131072: {"passkey": {"mean": mean, "prompts": 8}}, 8192: {}} for mean in (0.0, 0.875)]
    numbers = {"base": of(0.8, 0.0, 8.0, asked[0]), "merged": of(0.9, 0.75, 8.08, asked[1])}
    text = made(numbers)
    assert "| own needles, 131,072 tokens | passkey, 131,072 tokens | perplexity |" in text
    assert "| merged | 0.900 | 0.750 | 7 of 8 | 8.08 | 99.0% |" in text
    # A base that was not asked beyond its window comes first.
    inside = numbers["base"] | {name: {8192: numbers["base"][name][8192]} for name in ("niah_m", "tasks")}
    text = made({"base": inside, "merged": numbers["merged"]})
    assert "| base | 0.800 |  |  | 8.00 | 100.0% |" in text and "| merged | 0.900 | 0.750 | 7 of 8 |" in text
    text = made(numbers)
    # metrics.json has strings for lengths.
    read = {
        stage: each | {name: {str(n): v for n, v in each[name].items()} for name in ("niah_m", "tasks")}
        for stage, each in numbers.items()
    }
    assert made(read) == text

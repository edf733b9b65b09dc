"""Make the mini models: their tokenizer, their training by `curriculum`, and their cards.

A model that recalls words is made from one that recalls numbers, by phase B of the curriculum with words as values.
"""

import json
import logging
import platform
import textwrap
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from longrecipe.claims import Claim, Claims, interval, judge, number
from longrecipe.curriculum import LOWER, Curriculum, CurriculumError, pretrain
from longrecipe.data.english import load_english, reference_texts
from longrecipe.data.facts import fact_format
from longrecipe.families import MINI_VOCABULARY, MINI_WINDOW, FactValues, mini_name
from longrecipe.models.loading import load, new_mini, save
from longrecipe.system.errors import DivergedError
from longrecipe.system.files import write_text

log = logging.getLogger(__name__)


# A model that recalls numbers learns to recall words.
WORDS = Curriculum(pairs=(), text_steps=300)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 1024 entries, trained on Python's language reference. The last 90 are " 10" to " 99"."""
    numbers = [f" {i}" for i in range(10, 100)]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MINI_VOCABULARY - len(numbers),
        special_tokens=["<s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(reference_texts(), trainer)
    bpe.add_tokens(numbers)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="<s>", model_max_length=MINI_WINDOW)


def make_mini(
    model: str,
    folder: Path,
    *,
    seed: int = 0,
    settings: Curriculum | None = None,
    fact_values: FactValues = "numbers",
) -> pd.DataFrame:
    """Train a mini model and its tokenizer from scratch, and save them to folder (safetensors, float16 weights).

    `training.json` in the folder records how the model was made. If phase A does not learn recall, it starts again with
    another initialisation. Takes 20 minutes on two cores for llama3, and up to 54 for the others (their `training.json`
    says how long). With fact_values words, the model that ships learns them in 300 steps more (WORDS), 4 minutes.
    Returns the log of the last attempt, one row per step.

    Raises ValueError for an unknown architecture, CurriculumError if no attempt learns recall, and DivergedError if
    training diverges. Nothing is written then.
    """
    is_new = fact_values == "numbers"
    settings = settings or (Curriculum() if is_new else WORDS)
    tokenizer = build_tokenizer()
    text, facts = load_english(tokenizer), fact_format(tokenizer, fact_values)
    start = time.perf_counter()
    for attempt in range(settings.attempts):
        rng = np.random.default_rng(seed + 1000 * attempt)
        network = new_mini(model, seed + 1000 * attempt) if is_new else load(model)
        try:
            rows = pretrain(network, text, facts, rng=rng, settings=settings)
            break
        except CurriculumError as error:
            # Many initialisations only learn "one of two keys" and make no progress for hundreds of steps.
            log.info("attempt %d: %s", attempt + 1, error)
            if attempt + 1 == settings.attempts:
                raise
    seconds = time.perf_counter() - start
    frame = pd.DataFrame(rows)
    network = network.to(torch.float16)
    if not all(weight.isfinite().all() for weight in network.parameters()):
        raise DivergedError(f"the trained weights exceed the range of float16; {LOWER}.")
    save(network, tokenizer, folder)
    record = {
        "model": model,
        "fact_values": fact_values,
        "seed": seed,
        "attempts": attempt + 1,
        "curriculum": asdict(settings),
        "corpus_sha256": text.sha256,
        "train_text_tokens": len(text.train),
        "steps": frame["phase"].value_counts().to_dict(),
        "final_loss": frame["loss"].tail(50).mean(),
        "seconds": round(seconds),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    write_text(folder / "training.json", json.dumps(record, indent=1) + "\n")
    return frame


def card(training: Mapping, numbers: Mapping, *, n_parameters: int, rope_theta: float) -> str:
    """The model card (Markdown): how the model was made (training.json) and its scores (`Report.numbers()`)."""
    recall = " | ".join(f"{cell['mean']:.3f}" for cell in numbers["recall"].values())
    prompts = " | ".join(str(cell["prompts"]) for cell in numbers["recall"].values())
    lengths = list(numbers["recall"])
    # Not recorded at first; those runs had two threads.
    steps, settings, threads = training["steps"], training["curriculum"], training.get("threads", 2)
    cores = "1 CPU core" if threads == 1 else f"{threads} CPU cores"
    # Not recorded at first; those models recall numbers.
    values = training.get("fact_values", "numbers")
    text = f"steps of {settings['text_tokens_per_step']} tokens of English with planted facts"
    made = f"from random weights (seed {training['seed']}, attempt {training['attempts']}) in two phases: "
    made += f"{steps.get('A')} steps on key-value pairs alone, then {steps['B']} {text}."
    again = "`-p retrain True`"
    if values != "numbers":
        made = f"from mini {training['model']}, which recalls numbers, by {steps['B']} {text} whose values are "
        made += f"{values} (seed {training['seed']})."
        again = f"`-p fact_values {values} -p retrain True`"
    how = (
        f"**How it was made**: {made} Muon trains the matrices, AdamW the rest. This took {training['seconds']} s on "
        f"{cores}. Weights are stored as float16. `training.json` has all settings, and {again} for "
        "`notebooks/00_mini_models.ipynb` makes the model again."
    )
    return f"""---
license: apache-2.0
library_name: transformers
---
# Mini {mini_name(training["model"], values)}

A language model of {n_parameters / 1e6:.2f}M parameters with a window of {MINI_WINDOW} tokens. longrecipe extends it in
minutes on a CPU. RoPE base {rope_theta:g}. It is made for experiments, not for use as a language model.

{textwrap.fill(how, 120, break_on_hyphens=False)}

**Tokenizer**: load it with `PreTrainedTokenizerFast`. `AutoTokenizer` chooses a class by the architecture, which may
split text differently.

**Text**: the language reference and the standard library's docstrings of Python {training["python"]}, without digits:
{training["train_text_tokens"]:,} training tokens. SHA-256 of the cleaned text:
`{training["corpus_sha256"]}`.

**Measured** on held-out text: perplexity {numbers["perplexity"]:.1f} at {MINI_WINDOW} tokens, and recall of one of 4
facts, in a text that also has 4 facts about a fifth key:

| tokens | {" | ".join(map(str, lengths))} |
| --- |{" --- |" * len(lengths)}
| recall | {recall} |
| prompts | {prompts} |
"""


def claims(numbers: Mapping) -> Claims:
    """The claims that a mini model is judged by, from `Report.numbers()`: recall at its window, and at 16 windows."""
    target = 16 * MINI_WINDOW
    inside, beyond = (numbers["recall"][length] for length in (MINI_WINDOW, target))
    judged = (
        (f"recall at {MINI_WINDOW} tokens, the window, is at least 0.85", inside, inside["mean"] >= 0.85),
        (f"recall at {target} tokens is at most 0.05", beyond, beyond["mean"] <= 0.05),
    )
    return Claims(
        Claim(text, judge(holds), number(cell["mean"], 3), interval((cell["mean"], cell["low"], cell["high"]), 3))
        for text, cell, holds in judged
    )

"""How the mini models are made: a tokenizer, a curriculum from bare key-value pairs to text with facts, a loop.

Key-value recall does not appear by itself in models this small; a curriculum finds it in minutes. Phase A trains on
pairs alone (2, then 4, 8, 16, the next as soon as recall passes 0.95), phase B on English text with planted facts.
"""

import json
import logging
import math
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from longrecipe.data.corpus import Corpus, load_english, reference_texts
from longrecipe.data.facts import FactFormat, fact_format, short_sample
from longrecipe.data.samples import IGNORE
from longrecipe.models.loading import VOCABULARY, WINDOW, autocast_dtype, new_mini, save
from longrecipe.system.files import write_text

log = logging.getLogger(__name__)
_LOWER = "lower muon_learning_rate and adamw_learning_rate of Curriculum"


@dataclass(frozen=True)
class Curriculum:
    """Settings of the making of a mini model; rates are those of Muon (matrices) and AdamW (embeddings, norms)."""

    pairs: tuple[int, ...] = (2, 4, 8, 16)
    pass_mark: float = 0.95
    level_steps_at_most: int = 300
    attempts: int = 8
    pair_tokens_per_step: int = 4096
    text_steps: int = 1500
    text_tokens_per_step: int = 6144
    muon_learning_rate: float = 0.02
    adamw_learning_rate: float = 3.0e-3
    text_rate_share: float = 0.5


class CurriculumError(RuntimeError):
    """Phase A did not reach its pass mark in its steps: the model did not find key-value recall."""


class DivergedError(CurriculumError):
    """A loss, gradient or weight is no finite number. Another initialisation does not help."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 1024 entries trained on Python's language reference, its last 90 being " 10" to " 99"."""
    numbers = [f" {i}" for i in range(10, 100)]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(numbers),
        special_tokens=["<s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(reference_texts(), trainer)
    bpe.add_tokens(numbers)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="<s>", model_max_length=WINDOW)


def make_mini(model: str, folder: Path, seed: int = 0, settings: Curriculum | None = None) -> pd.DataFrame:
    """Make a mini model from nothing, tokenizer included, and write it to folder (weights as float16, safetensors).

    `training.json` in the same folder says how it was made. An initialisation that does not find recall in phase A is
    given up for the next one. Takes about 15 minutes on two cores. Returns the log of the last attempt, one row a step.
    Raises ValueError for an unknown architecture, CurriculumError if no attempt finds recall, and DivergedError if the
    training diverges; then nothing is written.
    """
    settings = settings or Curriculum()
    tokenizer = build_tokenizer()
    text, facts = load_english(tokenizer), fact_format(tokenizer)
    start = time.perf_counter()
    for attempt in range(settings.attempts):
        network, rng = new_mini(model, seed + 1000 * attempt), np.random.default_rng(seed + 1000 * attempt)
        try:
            rows = pretrain(network, text, facts, rng, settings)
            break
        except DivergedError:
            raise
        except CurriculumError as error:
            # Many initialisations settle at "one of two keys" and had not left it after hundreds of steps.
            log.info("attempt %d: %s", attempt + 1, error)
            if attempt + 1 == settings.attempts:
                raise
    seconds = time.perf_counter() - start
    frame = pd.DataFrame(rows)
    network = network.to(torch.float16)
    if not all(weight.isfinite().all() for weight in network.parameters()):
        raise DivergedError(f"the trained weights do not fit float16; {_LOWER}.")
    save(network, tokenizer, folder)
    record = {
        "model": model,
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


def card(training: Mapping, numbers: Mapping, n_parameters: int, rope_theta: float) -> str:
    """The card of a mini model (Markdown): how it was made (training.json), what it can do (`Report.numbers()`)."""
    recall = " | ".join(f"{cell['mean']:.3f}" for cell in numbers["recall"].values())
    prompts = " | ".join(str(cell["prompts"]) for cell in numbers["recall"].values())
    lengths = list(numbers["recall"])
    # Those made before it was recorded had two.
    steps, settings, threads = training["steps"], training["curriculum"], training.get("threads", 2)
    cores = "1 CPU core" if threads == 1 else f"{threads} CPU cores"
    return f"""---
license: apache-2.0
library_name: transformers
---
# Mini {training["model"]}

A language model of {n_parameters / 1e6:.2f}M parameters with a window of {WINDOW} tokens, made to be extended by
longrecipe in minutes on a CPU. RoPE base {rope_theta:g}. Not for use as a language model.

**How made**: from random weights (seed {training["seed"]}, attempt {training["attempts"]}), {steps["A"]} steps on bare
key-value pairs, then {steps["B"]} steps of {settings["text_tokens_per_step"]} tokens of English with planted facts;
Muon for matrices, AdamW for the rest; {training["seconds"]} s on {cores}; stored as float16. `training.json`
holds all settings; `notebooks/00_mini_models.ipynb -p retrain True` makes it again. Load its tokenizer with
`PreTrainedTokenizerFast`: `AutoTokenizer` goes by the architecture and may cut text in another way.

**Text**: Python {training["python"]}'s language reference and standard-library docstrings, digits removed,
{training["train_text_tokens"]:,} training tokens; SHA-256 of the cleaned text `{training["corpus_sha256"]}`.

**Measured** on held-out text: perplexity {numbers["perplexity"]:.1f} at {WINDOW} tokens; recall of one of 4 facts,
beside 4 facts of another key:

| tokens | {" | ".join(map(str, lengths))} |
| --- |{" --- |" * len(lengths)}
| recall | {recall} |
| prompts | {prompts} |
"""


def pair_batch(
    facts: FactFormat, n_pairs: int, n_tokens: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Phase A: rows of n_pairs bare KEY NN pairs, then as many recalls again and again; labels on recalled values only.

    Returns ids and labels, both int64 [rows, 6 * n_pairs], labels being -100 for tokens that are not asked.
    """
    rows = max(1, n_tokens // (6 * n_pairs))
    keys = np.stack([rng.choice(facts.keys, size=n_pairs, replace=False) for _ in range(rows)])
    values = rng.choice(facts.values, size=(rows, n_pairs))
    asked = np.concatenate([np.tile(np.arange(n_pairs), (rows, 1)), rng.integers(0, n_pairs, (rows, 2 * n_pairs))], 1)
    pick = lambda table: np.take_along_axis(table, asked, axis=1)  # noqa: E731
    ids = np.stack([pick(keys), pick(values)], axis=2).reshape(rows, -1)
    labels = np.full_like(ids, IGNORE)
    labels[:, 2 * n_pairs + 1 :: 2] = ids[:, 2 * n_pairs + 1 :: 2]
    return ids, labels


def pretrain(
    network: PreTrainedModel,
    corpus: Corpus,
    facts: FactFormat,
    rng: np.random.Generator,
    settings: Curriculum | None = None,
) -> list[dict]:
    """Train a mini model from nothing, in place, by the curriculum; returns the log, a dict for each step.

    Raises CurriculumError if phase A does not pass within its step limit, and DivergedError at the first loss or
    gradient that is no finite number.
    """
    settings = settings or Curriculum()
    own_head = not network.config.tie_word_embeddings
    inputs, head = network.get_input_embeddings(), network.get_output_embeddings()
    if own_head:
        # Phase A ties them all the same: with output weights of their own, seven of seven attempts found no recall.
        head.weight = inputs.weight
    step, rows = _stepper(network, settings), []
    network.train()
    with tqdm(desc="phase A, pairs") as bar:
        for n_pairs in settings.pairs:
            accuracy, first = 0.0, len(rows)
            while accuracy < settings.pass_mark:
                if len(rows) - first == settings.level_steps_at_most:
                    raise CurriculumError(
                        f"{n_pairs} pairs: recall {accuracy:.2f} after {settings.level_steps_at_most} steps, wanted "
                        f"{settings.pass_mark}. Try another seed, or raise level_steps_at_most."
                    )
                ids, labels = pair_batch(facts, n_pairs, settings.pair_tokens_per_step, rng)
                loss, hits = step(ids, labels, min(1.0, (len(rows) + 1) / 50), f"phase A, step {len(rows) + 1}")
                accuracy = 0.9 * accuracy + 0.1 * hits
                rows.append({"phase": "A", "pairs": n_pairs, "loss": loss, "accuracy": accuracy})
                bar.update()
            log.info("phase A: %d pairs known after %d steps", n_pairs, len(rows))
    if own_head:
        head.weight = torch.nn.Parameter(inputs.weight.detach().clone())
        step = _stepper(network, settings)
    for i in tqdm(range(settings.text_steps), desc="phase B, text"):
        done = i / settings.text_steps
        length = WINDOW // 4 if done < 0.15 else WINDOW // 2 if done < 0.35 else WINDOW
        count = settings.text_tokens_per_step // length
        ids = np.stack([short_sample(corpus.train, facts, length, rng) for _ in range(count)])
        loss, _ = step(ids, ids, settings.text_rate_share * (1 - 0.95 * done), f"phase B, step {i + 1}")
        rows.append({"phase": "B", "length": length, "loss": loss})
    network.eval()
    return rows


def _stepper(network: PreTrainedModel, settings: Curriculum) -> Callable[[np.ndarray, np.ndarray, float, str], tuple]:
    # Muon is defined for the hidden matrices only (Jordan 2024); embeddings and norms go to AdamW.
    matrices = [p for n, p in network.named_parameters() if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
    inside = set(map(id, matrices))
    others = [p for p in network.parameters() if id(p) not in inside]
    optimizers = [
        (torch.optim.Muon(matrices, lr=1.0, weight_decay=0.0, momentum=0.95), settings.muon_learning_rate),
        (torch.optim.AdamW(others, lr=1.0, betas=(0.9, 0.98), weight_decay=0.0), settings.adamw_learning_rate),
    ]
    dtype = autocast_dtype()

    def step(ids: np.ndarray, labels: np.ndarray, rate_share: float, where: str) -> tuple[float, float]:
        x, y = torch.from_numpy(ids), torch.from_numpy(labels)[:, 1:]
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            logits = network(x, attention_mask=torch.ones_like(x), use_cache=False).logits[:, :-1].float()
        loss = F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=IGNORE)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
            rates = [f"{rate * rate_share:.3g}" for _, rate in optimizers]
            raise DivergedError(
                f"{where}: loss {loss.item():g}, gradient norm {norm.item():g} at learning rates {rates[0]} (Muon) and "
                f"{rates[1]} (AdamW); {_LOWER}."
            )
        for optimizer, rate in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * rate_share
            optimizer.step()
            optimizer.zero_grad()
        asked = y != IGNORE
        hits = (logits.argmax(-1) == y)[asked].float().mean()
        return loss.item(), hits.item()

    return step

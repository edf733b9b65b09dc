"""The curriculum that mini models are trained with.

Models this small do not learn key-value recall from text, but with a curriculum they learn it in minutes. Phase A
trains on key-value pairs only: 2, then 4, 8 and 16, the next as soon as recall passes 0.95. Phase B trains on English
text with planted facts.
"""

import logging
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from longrecipe.data.corpus import Corpus
from longrecipe.data.facts import FactFormat, short_sample
from longrecipe.data.samples import IGNORE
from longrecipe.families import MINI_WINDOW
from longrecipe.models.loading import autocast_dtype
from longrecipe.system.errors import DivergedError

log = logging.getLogger(__name__)
LOWER = "lower muon_learning_rate and adamw_learning_rate of Curriculum"


@dataclass(frozen=True)
class Curriculum:
    """Settings to train a mini model, with learning rates of Muon (matrices) and AdamW (embeddings, norms)."""

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
    """Phase A did not reach its pass mark within its steps: the model did not learn key-value recall."""


def pair_batch(
    facts: FactFormat, n_pairs: int, n_tokens: int, *, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A batch of phase A: each row has n_pairs pairs of key and value, then 2 * n_pairs pairs drawn from them.

    Returns ids and labels, both int64 [rows, 6 * n_pairs], of about n_tokens in all. Only values of repeated pairs have
    labels, the others are -100.
    """
    rows = max(1, n_tokens // (6 * n_pairs))
    keys = np.stack([rng.choice(facts.keys, size=n_pairs, replace=False) for _ in range(rows)])
    values = rng.choice(facts.values, size=(rows, n_pairs))
    order = np.concatenate([np.tile(np.arange(n_pairs), (rows, 1)), rng.integers(0, n_pairs, (rows, 2 * n_pairs))], 1)
    ids = np.stack([np.take_along_axis(table, order, axis=1) for table in (keys, values)], axis=2).reshape(rows, -1)
    labels = np.full_like(ids, IGNORE)
    labels[:, 2 * n_pairs + 1 :: 2] = ids[:, 2 * n_pairs + 1 :: 2]
    return ids, labels


def pretrain(
    network: PreTrainedModel,
    corpus: Corpus,
    facts: FactFormat,
    *,
    rng: np.random.Generator,
    settings: Curriculum | None = None,
) -> list[dict]:
    """Train a network with the curriculum, in place. Returns the log, a dict per step.

    Raises CurriculumError if phase A does not pass within its step limit, and DivergedError at the first loss or
    gradient that is not finite.
    """
    settings = settings or Curriculum()
    own_head = not network.config.tie_word_embeddings
    inputs, head = network.get_input_embeddings(), network.get_output_embeddings()
    if own_head:
        # Phase A ties them anyway: with separate output weights, none of seven attempts learned recall.
        head.weight = inputs.weight
    optimizers, rows = _Optimizers(network, settings), []
    network.train()
    with tqdm(desc="phase A, pairs") as bar:
        for n_pairs in settings.pairs:
            accuracy, first = 0.0, len(rows)
            while accuracy < settings.pass_mark:
                if len(rows) - first == settings.level_steps_at_most:
                    raise CurriculumError(
                        f"{n_pairs} pairs: recall {accuracy:.2f} after {settings.level_steps_at_most} steps, below the "
                        f"pass mark of {settings.pass_mark}. Try another seed, or raise level_steps_at_most."
                    )
                ids, labels = pair_batch(facts, n_pairs, settings.pair_tokens_per_step, rng=rng)
                step = len(rows) + 1
                loss, share = optimizers.step(ids, labels, rate_share=min(1.0, step / 50), name=f"phase A, step {step}")
                accuracy = 0.9 * accuracy + 0.1 * share
                rows.append({"phase": "A", "pairs": n_pairs, "loss": loss, "accuracy": accuracy})
                bar.update()
            log.info("phase A: %d pairs learned after %d steps", n_pairs, len(rows))
    if own_head:
        head.weight = torch.nn.Parameter(inputs.weight.detach().clone())
        optimizers = _Optimizers(network, settings)
    for i in tqdm(range(settings.text_steps), desc="phase B, text"):
        done = i / settings.text_steps
        length = MINI_WINDOW // 4 if done < 0.15 else MINI_WINDOW // 2 if done < 0.35 else MINI_WINDOW
        count = settings.text_tokens_per_step // length
        ids = np.stack([short_sample(corpus.train, facts, length, rng=rng) for _ in range(count)])
        rate_share = settings.text_rate_share * (1 - 0.95 * done)
        loss, _ = optimizers.step(ids, ids, rate_share=rate_share, name=f"phase B, step {i + 1}")
        rows.append({"phase": "B", "length": length, "loss": loss})
    network.eval()
    return rows


class _Optimizers:
    """Muon for the matrices of a network, AdamW for the rest (embeddings, norms)."""

    def __init__(self, network: PreTrainedModel, settings: Curriculum):
        # Muon is defined for hidden matrices only (Jordan 2024).
        matrices = [p for n, p in network.named_parameters() if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
        inside = set(map(id, matrices))
        others = [p for p in network.parameters() if id(p) not in inside]
        self.network = network
        self.dtype = autocast_dtype()
        self.optimizers = [
            (torch.optim.Muon(matrices, lr=1.0, weight_decay=0.0, momentum=0.95), settings.muon_learning_rate),
            (torch.optim.AdamW(others, lr=1.0, betas=(0.9, 0.98), weight_decay=0.0), settings.adamw_learning_rate),
        ]

    def step(self, ids: np.ndarray, labels: np.ndarray, *, rate_share: float, name: str) -> tuple[float, float]:
        """One training step on a batch, at a share of the learning rates; returns loss and accuracy.

        ids, labels: int64 [rows, n]; name: of the step, for the error. Raises DivergedError.
        """
        x, y = torch.from_numpy(ids), torch.from_numpy(labels)[:, 1:]
        with torch.autocast("cpu", dtype=self.dtype, enabled=self.dtype != torch.float32):
            logits = self.network(x, attention_mask=torch.ones_like(x), use_cache=False).logits[:, :-1].float()
        loss = F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=IGNORE)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
            muon, adamw = (f"{rate * rate_share:.3g}" for _, rate in self.optimizers)
            raise DivergedError(
                f"{name}: loss {loss.item():g}, gradient norm {norm.item():g} at learning rates {muon} (Muon) and "
                f"{adamw} (AdamW); {LOWER}."
            )
        for optimizer, rate in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * rate_share
            optimizer.step()
            optimizer.zero_grad()
        counted = y != IGNORE
        accuracy = (logits.argmax(-1) == y)[counted].float().mean()
        return loss.item(), accuracy.item()

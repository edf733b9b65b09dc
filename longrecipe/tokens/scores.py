"""Scores of the tokens of documents under H and H', streamed to parquet, so that an interrupted run resumes."""

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from longrecipe.system.errors import reason
from longrecipe.system.files import locked, new_file, read_json, write_text

log = logging.getLogger(__name__)
SCORES = ("logit", "logprob")
# Tokens of one forward pass, entries of one block of logits, and what is written at a time.
BATCH_TOKENS = 8192
LOGIT_ENTRIES = 2**23
FLUSH_TOKENS, FLUSH_SECONDS = 2**20, 60.0
_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("ids", pa.list_(pa.int32())),
        ("base", pa.list_(pa.float32())),
        ("longer", pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True)
class Scored:
    """A document with its scores: ids int64 [L]; base and longer float32 [L - 1], S_H and S_H' of tokens 1..L-1."""

    key: str
    ids: np.ndarray
    base: np.ndarray
    longer: np.ndarray

    @property
    def shift(self) -> np.ndarray:
        """S_H' - S_H of tokens 1..L-1 (paper, section 4.1), float32 [L - 1]."""
        return self.longer - self.base


@torch.inference_mode()
def next_token_scores(network: PreTrainedModel, ids: np.ndarray, score: str = "logit") -> np.ndarray:
    r"""S(x_t | x_{<t}) of every realised next token (paper, section 4.1).

    `logit`, the paper's: $S = h_{t-1} \cdot w_{x_t}$, one dot product of the hidden state with one row of the LM head;
    logits of the whole vocabulary are never built, so memory does not depend on its size. `logprob`:
    $S = h_{t-1} \cdot w_{x_t} - \log \sum_v \exp(h_{t-1} \cdot w_v)$, which a shift of all logits leaves unchanged; its
    log-sum-exp runs over blocks of positions, so memory stays bounded at any length.

    Args: ids int64 [B, L], any batch of equally long documents. Returns float32 [B, L - 1], for t = 1..L-1.
    Raises ValueError for an unknown score.
    Example: ids `[[5, 7, 9, 7, 2]]` give the scores of 7, 9, 7, 2.
    """
    _check_score(score)
    head, batch = network.get_output_embeddings(), torch.from_numpy(ids).to(network.device)
    hidden = network.base_model(input_ids=batch, use_cache=False).last_hidden_state[:, :-1]
    following = batch[:, 1:]
    found = (hidden * head.weight[following]).sum(-1, dtype=torch.float32)
    if head.bias is not None:
        found = found + head.bias[following]
    if score == "logprob":
        flat = hidden.reshape(-1, hidden.shape[-1])
        blocks = flat.split(max(1, LOGIT_ENTRIES // head.weight.shape[0]))
        found = found - torch.cat([head(block).float().logsumexp(-1) for block in blocks]).view_as(found)
    return found.cpu().numpy()


def score_documents(
    base: PreTrainedModel,
    longer: PreTrainedModel,
    documents: Iterable[tuple[str, np.ndarray]],
    folder: str | Path,
    *,
    score: str = "logit",
    min_length: int = 2,
) -> list[Scored]:
    """Score documents with H and H' and keep the scores in folder, as parquet keyed by document.

    Documents are read one after another, so there may be more than fit into memory; neighbours of one length share a
    forward pass. Scores are written at least once a minute, and an interrupted run resumes after them.

    Args: documents: (key, ids int64 [L]) pairs, of any lengths from min_length on, keys distinct; min_length in tokens,
    the window of H'. Returns the documents' scores in the order given.
    Raises ValueError if there are no documents, a document is shorter than min_length, a key occurs twice or was scored
    with another text, the vocabularies of the models differ, an id is outside them, the logits of a model are not plain
    products of hidden state and head, or folder contains the scores of other models.
    """
    folder = Path(folder)
    _check_score(score)
    _check_models(base, longer)
    record = {"score": score, "base": fingerprint(base), "longer": fingerprint(longer)}
    with locked(folder, "scores tokens"):
        _claim(folder, record)
        _remove_damaged(folder)
        keys = _score(base, longer, documents, folder=folder, score=score, min_length=min_length)
        if not keys:
            raise ValueError("no documents to score: the corpus is empty.")
        found = {scored.key: scored for scored in read_scores(folder)}
    return [found[key] for key in keys]


def _score(
    base: PreTrainedModel,
    longer: PreTrainedModel,
    documents: Iterable[tuple[str, np.ndarray]],
    *,
    folder: Path,
    score: str,
    min_length: int,
) -> list[str]:
    """Score the documents that are not in folder yet. Returns the keys of all."""
    done = {scored.key: scored.ids for scored in read_scores(folder)}
    keys: list[str] = []
    n_shards = 1 + max((int(path.stem) for path in folder.glob("*.parquet")), default=-1)
    with tqdm(desc="token scores", unit=" tokens", unit_scale=True, leave=False) as bar:

        def unscored() -> Iterator[tuple[str, np.ndarray]]:
            for key, ids in _checked(documents, done, min_length=min_length, vocabulary=base.config.vocab_size):
                keys.append(key)
                if key in done:
                    bar.update(len(ids))
                else:
                    yield key, ids

        rows, written = [], time.monotonic()
        for batch in _batches(unscored()):
            ids = np.stack([ids for _, ids in batch])
            pairs = zip(*(next_token_scores(network, ids, score) for network in (base, longer)), strict=True)
            rows += [Scored(key, each, *pair) for (key, each), pair in zip(batch, pairs, strict=True)]
            bar.update(ids.size)
            if sum(len(row.ids) for row in rows) >= FLUSH_TOKENS or time.monotonic() - written >= FLUSH_SECONDS:
                n_shards = _write(folder, n_shards, rows)
                rows, written = [], time.monotonic()
        if rows:
            _write(folder, n_shards, rows)
    return keys


def _remove_damaged(folder: Path) -> None:
    """Remove incomplete files of scores, with a warning: their documents are scored again."""
    for path in sorted(folder.glob("*.parquet")):
        try:
            pq.read_table(path)
        except (OSError, ValueError) as error:
            log.warning("%s is damaged (%s) and is removed; its documents are scored again", path, reason(error))
            path.unlink()


def read_scores(folder: Path) -> Iterator[Scored]:
    """The scores kept in folder, in the order in which they were written."""
    for path in sorted(folder.glob("*.parquet")):
        table = pq.read_table(path)
        columns = [_arrays(table[name]) for name in ("ids", "base", "longer")]
        for key, ids, base, longer in zip(table["key"].to_pylist(), *columns, strict=True):
            yield Scored(key, ids.astype(np.int64), base, longer)


def _arrays(column: pa.ChunkedArray) -> list[np.ndarray]:
    lists = column.combine_chunks()
    return np.split(lists.values.to_numpy(), lists.offsets.to_numpy()[1:-1])


def fingerprint(network: PreTrainedModel) -> str:
    """A short hash that tells models apart: configuration of positions, and up to 4096 values of every weight."""
    digest = hashlib.sha256(json.dumps(network.config.to_dict().get("rope_parameters"), sort_keys=True).encode())
    for name, weight in network.state_dict().items():
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        flat = weight.detach().flatten()
        digest.update(flat[:: max(1, len(flat) // 4096)].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _check_score(score: str) -> None:
    if score not in SCORES:
        raise ValueError(f"score = {score!r}: allowed are {', '.join(SCORES)}.")


def _check_models(base: PreTrainedModel, longer: PreTrainedModel) -> None:
    sizes = [network.get_output_embeddings().weight.shape[0] for network in (base, longer)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"H has {sizes[0]} vocabulary entries, H' {sizes[1]}: scores can only be compared within one vocabulary."
        )
    for name, network in (("H", base), ("H'", longer)):
        check_plain_logits(network, name)


def check_plain_logits(network: PreTrainedModel, name: str) -> None:
    """Raise ValueError if the logits of a model, called name, are not plain products of hidden state and head."""
    head = network.get_output_embeddings()
    with torch.inference_mode():
        batch = {"input_ids": torch.arange(4, device=network.device)[None] % head.weight.shape[0], "use_cache": False}
        logits = network(**batch).logits.float()
        plain = head(network.base_model(**batch).last_hidden_state).float()
    # Compare the whole vocabulary: a cap changes only large logits.
    apart = (logits - plain).abs()
    if apart.max() > 0.01 * plain.abs().max():
        worst = apart.argmax()
        raise ValueError(
            f"{name} ({network.config.model_type}) scales or caps its logits: {logits.flatten()[worst]:.3g} instead of "
            f"{plain.flatten()[worst]:.3g} from hidden state and head. Such models cannot be scored: use another."
        )


def _claim(folder: Path, record: dict[str, str]) -> None:
    path = folder / "scores.json"
    if path.is_file():
        held = read_json(path, f"delete {folder}, and the same command scores the documents again")
        if held != record:
            other = ", ".join(
                f"{name} {held.get(name)}, now {record[name]}" for name in record if held.get(name) != record[name]
            )
            raise ValueError(f"{folder} contains other scores ({other}): delete the folder or name another one.")
    write_text(path, json.dumps(record, indent=1) + "\n")


def _checked(
    documents: Iterable[tuple[str, np.ndarray]], done: dict[str, np.ndarray], *, min_length: int, vocabulary: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Check the key, the length and the ids of each document. done: the ids of documents that were scored before."""
    seen = set()
    for key, ids in documents:
        key, ids = str(key), np.asarray(ids, dtype=np.int64)
        if key in seen:
            raise ValueError(f"two documents have the key {key!r}: give each its own.")
        if len(ids) < max(2, min_length):
            raise ValueError(
                f"document {key!r} has {len(ids)} tokens, fewer than min_length = {max(2, min_length)}: "
                "leave it out, or join short documents to long ones."
            )
        if ids.min() < 0 or ids.max() >= vocabulary:
            wrong = ids[(ids < 0) | (ids >= vocabulary)][0]
            raise ValueError(
                f"document {key!r} has token id {wrong}, outside the models' vocabulary of {vocabulary}: "
                "it was tokenised for another model."
            )
        if key in done and not np.array_equal(done[key], ids):
            raise ValueError(f"document {key!r} was scored with another text: delete the scores or give it a new key.")
        seen.add(key)
        yield key, ids


def _batches(documents: Iterable[tuple[str, np.ndarray]]) -> Iterator[list[tuple[str, np.ndarray]]]:
    """Batches of neighbours of one length, up to BATCH_TOKENS tokens."""
    batch: list[tuple[str, np.ndarray]] = []
    for key, ids in documents:
        if batch and (len(batch[0][1]) != len(ids) or (len(batch) + 1) * len(ids) > BATCH_TOKENS):
            yield batch
            batch = []
        batch.append((key, ids))
    if batch:
        yield batch


def _write(folder: Path, number: int, rows: list[Scored]) -> int:
    """Write one parquet file atomically. Returns the number of the next one."""
    columns = {name: [getattr(row, name) for row in rows] for name in _SCHEMA.names}
    with new_file(folder / f"{number:05d}.parquet") as temporary:
        pq.write_table(pa.table(columns, schema=_SCHEMA), temporary)
    return number + 1

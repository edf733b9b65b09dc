"""What the token analysis costs beside two plain forward passes: `python tests/benchmarks/bench_tokens.py`.

Both sides read the same documents in the same batches, in turns, in one process; only their ratio counts. Plain: the
two models' hidden states, no logits. Analysis: `score_documents`, parquet included.
"""

import statistics
import tempfile
import time
from pathlib import Path

import torch

from longrecipe import models, recipe
from longrecipe import settings as params
from longrecipe.tokens import score_documents, scores

ROUNDS, DOCUMENTS = 7, 16


@torch.inference_mode()
def plain(networks, documents) -> float:
    start = time.perf_counter()
    for batch in torch.tensor(documents).split(max(1, scores.BATCH_TOKENS // len(documents[0]))):
        for network in networks:
            network.base_model(input_ids=batch, use_cache=False)
    return time.perf_counter() - start


def analysis(networks, documents, score) -> float:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        score_documents(*networks, ((str(i), ids) for i, ids in enumerate(documents)), Path(folder), score=score)
    return time.perf_counter() - start


def main() -> None:
    settings = params.load("llama3")
    run = recipe.prepare(settings)
    networks = run.base(), models.load("llama3", target_length=settings.probe_window)
    documents = [ids[: settings.probe_window] for ids in run.documents(DOCUMENTS)]
    n_tokens = sum(map(len, documents))
    plain(networks, documents)
    rounds = [
        (plain(networks, documents), *(analysis(networks, documents, s) for s in ("logit", "logprob")))
        for _ in range(ROUNDS)
    ]
    print(
        f"mini Llama-3, {n_tokens:,} tokens in documents of {settings.probe_window}, {torch.get_num_threads()} threads"
    )
    print(f"two plain forward passes: {statistics.median(r[0] for r in rounds):.2f} s")
    for i, (score, limit) in enumerate((("logit", "at most 1.15"), ("logprob", "no limit set")), start=1):
        ratios = sorted(r[i] / r[0] for r in rounds)
        print(
            f"analysis, {score}: {statistics.median(ratios):.3f} times, {ratios[0]:.3f} to {ratios[-1]:.3f} ({limit})"
        )


if __name__ == "__main__":
    main()

"""Tokens a second of sentence selection and positions: `python tests/benchmarks/bench_selection.py`.

One thread, sentence bounds and anchors given, as the stage-1 set is built: from a document of T tokens to n selected
ones with their position ids. Rates are counted twice: tokens of the document read, and tokens kept.
"""

import statistics
import time

import numpy as np

from longrecipe.data.selection import SELECTIONS, select
from longrecipe.positions import longrecipe

ROUNDS = 50


def main() -> None:
    rng = np.random.default_rng(0)
    print("selection   T        n       sentences   million tokens a second: read, kept")
    for target in (4096, 81920, 131072):
        lengths = rng.integers(5, 51, size=target // 20)
        lengths = lengths[np.cumsum(lengths) <= target]
        lengths[-1] += target - lengths.sum()
        ids, is_anchor, n_tokens = rng.integers(0, 50000, size=target), rng.random(target) < 0.02, int(0.3 * target)
        for how in SELECTIONS:
            seconds = []
            for _ in range(ROUNDS):
                start = time.perf_counter()
                _, sizes, _ = select(
                    ids, lengths, is_anchor, n_tokens=n_tokens, rng=rng, how=how, shift=is_anchor * 1.0
                )
                longrecipe(sizes, target, rng)
                seconds.append(time.perf_counter() - start)
            rate = 1e-6 / statistics.median(seconds)
            sentences = len(lengths)
            print(f"{how:10}{target:8}{n_tokens:9}{sentences:12}{target * rate:15.0f}{n_tokens * rate:8.0f}")


if __name__ == "__main__":
    main()

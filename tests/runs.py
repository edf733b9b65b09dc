"""Short runs that several test files share, and how their tables are read."""

import re

# Settings of a run that trains in seconds.
SHORT = {
    "target_length": 512,
    "probe_window": 272,
    "probe_steps": 2,
    "probe_batch_size": 2,
    "analysis_documents": 5,
    "n_documents": 4,
    "extend_steps": 6,
    "extend_batch_size": 2,
    "replay_steps": 4,
    "replay_batch_size": 2,
    "warmup_steps": 1,
    "save_steps": 2,
    "eval_documents": 2,
    "precision": "fp32",
}


def settings_of(grid, *names):
    """The values of some settings, a tuple for each run."""
    return [tuple(getattr(p, name) for name in names) for p in grid]


def unpadded(text):
    """Markdown without the blanks that align its columns."""
    return re.sub(" +", " ", text)

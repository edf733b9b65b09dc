"""Proof that an exported folder needs none of this code: a fresh process reads it with plain transformers."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

# Run by an interpreter of its own: this package is not imported there.
_READ = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, prompt, n_tokens = sys.argv[1], sys.argv[2], int(sys.argv[3])
tokenizer = AutoTokenizer.from_pretrained(folder)
network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
x = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
with torch.inference_mode():
    logits = network(**x).logits[0, -1]
    said = network.generate(**x, max_new_tokens=n_tokens, do_sample=False)[0, x["input_ids"].shape[1]:]
assert "longrecipe" not in sys.modules
config = network.config
print(json.dumps({
    "ids": x["input_ids"][0].tolist(), "logits": logits.tolist(), "said": tokenizer.decode(said),
    "window": config.max_position_embeddings, "architecture": config.architectures[0],
}))
"""


@dataclass(frozen=True)
class Export:
    """What a fresh process found: architecture, window in tokens, largest difference of logits, and a continuation."""

    architecture: str
    window: int
    difference: float
    said: str


def check_export(
    folder: Path, network: PreTrainedModel, prompt: str, n_tokens: int = 16, tolerance: float = 1e-3
) -> Export:
    """Load a folder in a fresh process by plain transformers, and hold its logits after a prompt against a model's.

    Args: network: the model in this process; n_tokens: of the greedy continuation; tolerance: largest difference that
    the logits of the last token may have (weights in float32; half precision needs more).
    Raises RuntimeError where the process fails, or the logits differ by more.
    """
    run = subprocess.run(
        [sys.executable, "-c", _READ, str(folder), prompt, str(n_tokens)], capture_output=True, text=True
    )
    if run.returncode:
        # What was raised, without the traceback before it.
        told = re.split(r"^(?=\w[\w.]*(?:Error|Exception): )", run.stderr, flags=re.M)[-1].strip()
        raise RuntimeError(f"plain transformers cannot load {folder}: {told}")
    found = json.loads(run.stdout.splitlines()[-1])
    with torch.inference_mode():
        x = torch.tensor([found["ids"]], device=network.device)
        logits = network(input_ids=x).logits[0, -1].float().cpu()
    difference = (logits - torch.tensor(found["logits"])).abs().max().item()
    if not difference <= tolerance:
        raise RuntimeError(f"{folder}: the logits of a fresh process differ by {difference:.2g}, over {tolerance:g}.")
    return Export(found["architecture"], found["window"], difference, found["said"])

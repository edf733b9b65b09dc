"""Proof that an exported folder needs none of this code: a fresh process reads it with plain transformers."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Run by an interpreter of its own: this package is not imported there.
_READ = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

asked = json.load(sys.stdin)
folder, prompt, ids = asked["folder"], asked["prompt"], asked["ids"]
for reader in (AutoTokenizer, PreTrainedTokenizerFast):
    tokenizer = reader.from_pretrained(folder)
    if tokenizer(prompt, add_special_tokens=False)["input_ids"] == ids:
        break
else:
    raise ValueError("its tokenizer cuts the prompt in another way")
network = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, asked["dtype"]))
x = torch.tensor([ids])
with torch.inference_mode():
    logits = network(input_ids=x).logits[0, -1].float()
    said = network.generate(
        x, attention_mask=torch.ones_like(x), max_new_tokens=asked["n_tokens"], do_sample=False
    )[0, len(ids):]
assert "longrecipe" not in sys.modules
print(json.dumps({
    "logits": logits.tolist(), "said": tokenizer.decode(said), "tokenizer": reader.__name__,
    "window": network.config.max_position_embeddings, "architecture": network.config.architectures[0],
}))
"""


@dataclass(frozen=True)
class Export:
    """What a fresh process found: architecture, window in tokens, the class of transformers that reads the tokenizer,
    the largest difference of logits, and a greedy continuation of the prompt."""

    architecture: str
    window: int
    tokenizer: str
    difference: float
    said: str


def check_export(
    folder: Path,
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    n_tokens: int = 16,
    tolerance: float = 1e-3,
) -> Export:
    """Load a folder in a fresh process by plain transformers, and hold tokens and logits against those of this one.

    The tokenizer is read by AutoTokenizer, or by PreTrainedTokenizerFast where the former cuts the prompt differently
    (it goes by the model's architecture). Both models compute on the CPU, in the network's dtype.
    Args: n_tokens: of the continuation; tolerance: largest difference that the logits of the last token may have.
    Raises RuntimeError where the process fails, the tokenizer cuts the prompt in another way, or the logits differ.
    """
    ids, device = tokenizer(prompt, add_special_tokens=False)["input_ids"], network.device
    dtype = str(network.dtype).removeprefix("torch.")
    asked = {"folder": str(folder), "prompt": prompt, "ids": ids, "n_tokens": n_tokens, "dtype": dtype}
    run = subprocess.run([sys.executable, "-c", _READ], input=json.dumps(asked), capture_output=True, text=True)
    if run.returncode:
        # What was raised, without the traceback before it.
        told = re.split(r"^(?=\w[\w.]*(?:Error|Exception): )", run.stderr, flags=re.M)
        told = told[-1].strip() if len(told) > 1 else f"the process ended with {run.returncode}"
        raise RuntimeError(f"plain transformers cannot load {folder}: {told}")
    found = json.loads(run.stdout.splitlines()[-1])
    with torch.inference_mode():
        logits = network.cpu()(input_ids=torch.tensor([ids])).logits[0, -1].float()
    network.to(device)
    difference = (logits - torch.tensor(found.pop("logits"))).abs().max().item()
    if not difference <= tolerance:
        raise RuntimeError(f"{folder}: the logits of a fresh process differ by {difference:.2g}, over {tolerance:g}.")
    return Export(difference=difference, **found)

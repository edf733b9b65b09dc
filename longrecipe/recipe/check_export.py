"""Check that an exported folder works without this package: a fresh process loads it with plain transformers."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from longrecipe.models.checkpoint import read_checkpoint
from longrecipe.models.loading import load
from longrecipe.models.rope import rope_keys, rope_theta

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Run by a new interpreter, which does not import this package.
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
    raise ValueError("its tokenizer splits the prompt differently")
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
    """What a fresh process found in an exported folder.

    architecture; window in tokens; tokenizer: the class of transformers that reads it; difference: the largest
    difference between the logits of the fresh process and of this one, both from the folder; rounding: the largest
    difference between the folder's logits and the measured model's, due to rounding to the folder's dtype; said: a
    greedy continuation of the prompt.
    """

    architecture: str
    window: int
    tokenizer: str
    difference: float
    rounding: float
    said: str


def check_export(
    folder: Path,
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    prompt: str,
    n_tokens: int = 16,
    tolerance: float = 1e-3,
) -> Export:
    """Load an exported folder with plain transformers in a fresh process, and compare the results with this process.

    Tokens and logits must be the same as those that this process gets from the folder. The folder must have the RoPE
    and the window of the measured model, and its weights after rounding. The tokenizer is read by AutoTokenizer, or by
    PreTrainedTokenizerFast if AutoTokenizer splits the prompt differently (it chooses a class by the architecture).
    Everything is computed on the CPU, in the network's dtype.

    Args:
        folder: the exported model.
        network: the model that was measured, in any dtype.
        tokenizer: the tokenizer that the model was trained with.
        prompt: text that is shorter than the window.
        n_tokens: length of the continuation.
        tolerance: the largest allowed difference of logits.

    Returns:
        An Export.

    Raises:
        RuntimeError: if the process fails, the tokenizer splits the prompt differently, logits differ by more than the
            tolerance, or weights, RoPE or window are not those of the measured model.
    """
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    dtype = str(network.dtype).removeprefix("torch.")
    asked = {"folder": str(folder), "prompt": prompt, "ids": ids, "n_tokens": n_tokens, "dtype": dtype}
    run = subprocess.run([sys.executable, "-c", _READ], input=json.dumps(asked), capture_output=True, encoding="utf-8")
    if run.returncode:
        # The error message without the traceback.
        parts = re.split(r"^(?=\w[\w.]*(?:Error|Exception): )", run.stderr, flags=re.M)
        why = parts[-1].strip() if len(parts) > 1 else f"the process ended with status {run.returncode}"
        raise RuntimeError(f"plain transformers cannot load {folder}: {why}")
    found = json.loads(run.stdout.splitlines()[-1])
    own = load(folder, dtype=network.dtype)
    logits = _last_logits(own, ids)
    difference = (logits - torch.tensor(found.pop("logits"))).abs().max().item()
    if not difference <= tolerance:
        raise RuntimeError(
            f"{folder}: the logits of a fresh process differ by {difference:.2g}, more than {tolerance:g}."
        )
    _check_same_model(folder, own, network)
    device = network.device
    rounding = (logits - _last_logits(network.cpu(), ids)).abs().max().item()
    network.to(device)
    return Export(difference=difference, rounding=rounding, **found)


def _last_logits(network: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return network(input_ids=torch.tensor([ids])).logits[0, -1].float()


def _check_same_model(folder: Path, own: PreTrainedModel, network: PreTrainedModel) -> None:
    """Raise RuntimeError if a folder's model differs from the network by more than rounding to its dtype."""
    for what, read in {"RoPE base": rope_theta, "window": lambda config: config.max_position_embeddings}.items():
        if (here := read(own.config)) != (there := read(network.config)):
            raise RuntimeError(f"{folder}: its {what} is {here:,.0f}, but the measured model's is {there:,.0f}.")
    here, there = (rope_keys(each.config).get("rope_scaling") for each in (own, network))
    if here != there:
        raise RuntimeError(f"{folder}: its RoPE is scaled by {here}, but the measured model's by {there}.")
    kept = read_checkpoint(folder).dtypes.values()
    stored = [torch.finfo(_DTYPES[name]) for name in set(kept) if name in _DTYPES]
    # Both models are rounded separately, each by half a unit in the last place; float16 rounds small values to 0.
    coarsest = max(torch.finfo(network.dtype).eps, *(each.eps for each in stored))
    smallest = max(each.smallest_normal * each.eps for each in stored)
    measured = network.state_dict()
    for name, tensor in own.state_dict().items():
        there = measured[name].to(tensor.device)
        if not torch.allclose(tensor.float(), there.float(), rtol=coarsest, atol=smallest):
            raise RuntimeError(f"{folder}: {name} differs from the measured model's by more than rounding.")

"""Checks that run before any work: the model, its tokenizer, the text and the disk of a run, each within seconds.

A run of a 7B model takes a day, so a problem must end it here and not late, with a message that says how to fix it.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as hf_logging

from longrecipe import cost, evaluate, models, train
from longrecipe.data.corpus import reference_texts
from longrecipe.evaluate.tasks import needles, passkey
from longrecipe.merge import COMPUTED, check_rule
from longrecipe.models.checkpoint import Checkpoint, few, load_tensor, read_checkpoint
from longrecipe.models.rope import extend_config
from longrecipe.positions import find
from longrecipe.recipe.disk import check_disk
from longrecipe.recipe.export import check_out
from longrecipe.recipe.run_text import Material, check_text
from longrecipe.settings import Params
from longrecipe.system.errors import reason
from longrecipe.system.files import check_writable
from longrecipe.system.paths import cache_dir, check_pointer
from longrecipe.train import attention_of, check_installed
from longrecipe.train.loss import fuse_loss, logit_changes
from longrecipe.train.memory import setup_of

log = logging.getLogger(__name__)
# FLOP a second that a CPU may reach at best, and days that nobody starts by mistake.
_CPU_FLOPS, _MOST_DAYS = 2.0e11, 1.0
_ADVICE = "save it again with transformers (from_pretrained, then save_pretrained)"


def check(p: Params, fetch: bool = True, here: bool = True) -> PreTrainedConfig:
    """Every check of a run that can be made before its text is tokenised, within seconds. Returns its configuration.

    fetch: whether a model of a hub is downloaded, to compare its tensors with its configuration; without, datasets of
    a hub are looked up, as nothing else will. here: whether the run
    is for this machine; without, its packages, speed, disk and text are not checked.
    Raises ValueError and OSError (FileNotFoundError among them), with the value, what is allowed and how to fix it.
    """
    config, is_remote = check_config(p), models.is_remote(p.source, p.scale)
    if here:
        check_training(p, config)
        check_out(p)
    if here and is_remote:
        # Before a long download; what needs the tokenizer is checked after it.
        check_text(p, on_hub=not fetch)
    if is_remote and not fetch:
        log.info("%s comes from a hub: its weights and tokenizer are checked when the run has fetched them.", p.source)
        return config
    tokenizer = load_tokenizer(p, config)
    check_weights(p, config)
    if here:
        check_text(p, tokenizer, on_hub=not fetch)
    check_facts(p, evaluate.planted(tokenizer) if p.scale == "mini" else english_wording(tokenizer))
    return config


def check_config(p: Params) -> PreTrainedConfig:
    """The configuration of a run's model. Raises ValueError if the recipe cannot extend it, and FileNotFoundError if
    there is no such model."""
    config = models.config_of(p.source, p.scale)
    if getattr(config, "quantization_config", None):
        raise ValueError(
            f"weights = {p.source!r}: the weights are quantised (quantization_config in config.json), and quantised "
            "weights cannot be trained or averaged; take the model in bfloat16 or float32."
        )
    own = getattr(config, "max_position_embeddings", None)
    if own and p.window > own:
        raise ValueError(
            f"window = {p.window}: the model's own is {own} (max_position_embeddings in config.json), and W is what "
            f"the model was trained on; give {own} or less, or null."
        )
    extend_config(config, p.target_length, factor=p.rope_factor, window=p.window)
    return config


def check_training(p: Params, config: PreTrainedConfig) -> None:
    """Raise ValueError if training lacks a package, would take days, or its files would not fit on the disk, and
    OSError if these cannot be written."""
    check_days(p, config)
    check_installed(setup_of(p))
    check_writable(cache_dir(), "cache ($LONGRECIPE_CACHE)")
    check_disk(p, config)


def check_days(p: Params, config: PreTrainedConfig) -> None:
    """Raise ValueError where there is no GPU and stages 1 and 2 would take over a day without one (modelled)."""
    if torch.cuda.is_available() or find(p.method).positions is None:
        return
    long = p.extend_steps * p.extend_batch_size + p.replay_long_share * p.replay_steps * p.replay_batch_size
    short = (1 - p.replay_long_share) * p.replay_steps * p.replay_batch_size
    flops = cost.training_flops(config, long * p.train_length, p.train_length)
    flops += cost.training_flops(config, short * p.short_length, p.short_length)
    days = flops / _CPU_FLOPS / 86400
    if days > _MOST_DAYS:
        raise ValueError(
            f"{p.model} at scale {p.scale!r}, target_length = {p.target_length}: training would take {days:.0f} days "
            "without a GPU (modelled). Take a GPU, a shorter target_length or fewer steps (smollm2 has -p profile "
            "cpu); the token analysis and the positions (notebooks 01 and 02) work here."
        )


def check_weights(p: Params, config: PreTrainedConfig, trains: bool = True) -> None:
    """Compare the tensors of a run's model with its architecture, and check that their values are finite numbers.

    trains: whether all stages run, and not the token analysis alone.
    Raises ValueError if a file is no safetensors file, a tensor is missing, has another shape or is used by nothing, or
    if the run's attention, loss, token analysis or merge rule does not work with this architecture.
    """
    folder = models.folder_of(p.source, p.scale)
    for path in sorted(folder.glob("*.safetensors")):
        check_pointer(path)
    stored = read_checkpoint(folder)
    network, found = _on_meta(folder, config)
    kind = type(network).__name__
    missing = sorted(found["missing_keys"])
    if missing:
        raise ValueError(
            f"{folder} lacks {few(missing)}, which {kind} needs; {_ADVICE}, or set tie_word_embeddings in config.json "
            "if the head is the embeddings'."
        )
    if found["mismatched_keys"]:
        name, there, needed = sorted(found["mismatched_keys"])[0]
        raise ValueError(
            f"{folder}: {name} is {tuple(there)}, and config.json asks for {tuple(needed)}; take the config.json that "
            f"belongs to these weights, or {_ADVICE}."
        )
    if unused := sorted(name for name in found["unexpected_keys"] if not COMPUTED.search(name)):
        raise ValueError(f"{folder} has {few(unused)}, which {kind} does not use, so merging would lose it; {_ADVICE}.")
    _check_dtypes(stored)
    _check_values(stored)
    if trains:
        check_rule(folder, p.merge_rule)
    _check_attention(p, network)
    _check_logits(p, network)


def _check_dtypes(stored: Checkpoint) -> None:
    for name, dtype in stored.dtypes.items():
        if dtype not in ("F64", "F32", "F16", "BF16") and not COMPUTED.search(name):
            raise ValueError(
                f"{stored.folder / stored.files[name]}: {name} is stored as {dtype}, which cannot be trained or "
                "averaged; take the model in bfloat16 or float32."
            )


def _check_values(stored: Checkpoint) -> None:
    # One tensor at a time, as fast as the disk.
    names = [name for name in stored.files if not COMPUTED.search(name)]
    if name := train.first_not_finite((name, load_tensor(stored, name)) for name in names):
        raise ValueError(
            f"{stored.folder / stored.files[name]}: {name} has NaN or infinite values, so the model cannot be trained; "
            "download it again, or take an earlier checkpoint of its training."
        )


def _check_attention(p: Params, network: PreTrainedModel) -> None:
    wanted = attention_of(p.attention)
    try:
        network.set_attn_implementation(wanted)
    except (ValueError, ImportError) as error:
        others = "eager" if wanted == attention_of("auto") else "auto, or eager"
        raise ValueError(
            f"attention = {p.attention!r}: {type(network).__name__} does not support {wanted} ({reason(error)}); set "
            f"attention: {others}, which every model has."
        ) from error


def _check_logits(p: Params, network: PreTrainedModel) -> None:
    changes = logit_changes(network.config)
    if changes and analyses(p):
        raise ValueError(
            f"{type(network).__name__} changes its logits ({' and '.join(changes)}), and the token analysis needs "
            "plain ones: set selection: random, or another method, such as pose."
        )
    if p.fused_loss:
        # The last use of this network: its forward is replaced.
        fuse_loss(network, p.loss_chunk)


def _on_meta(folder: Path, config: PreTrainedConfig) -> tuple[PreTrainedModel, dict]:
    # transformers' own loader, without the values: it knows what it renames, ties and ignores.
    with _quiet():
        try:
            return AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                device_map="meta",
                use_safetensors=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except (RuntimeError, KeyError, TypeError, AttributeError) as error:
            kind = type(config).__name__
            raise ValueError(f"{folder} does not load as {kind} ({reason(error)}); {_ADVICE}.") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars and reports of transformers: what they say is in the error."""
    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def load_tokenizer(p: Params, config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a run's model. Raises ValueError if there is none, or if it has ids that the model has not."""
    folder = models.folder_of(p.source, p.scale, with_weights=False)
    for name in ("tokenizer.json", "tokenizer.model"):
        if (folder / name).is_file():
            check_pointer(folder / name)
    try:
        tokenizer = models.load_tokenizer(p.source, p.scale)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder} has no tokenizer that transformers reads ({reason(error)}): copy the model's tokenizer.json and "
            "tokenizer_config.json into it; slow ones need `pip install sentencepiece`."
        ) from error
    rows, highest = config.get_text_config().vocab_size, max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise ValueError(
            f"{folder}: the tokenizer has token ids up to {highest}, the model has {rows} embeddings: take the model's "
            f"own tokenizer, or call resize_token_embeddings({highest + 1}), train the new rows and save the model."
        )
    return tokenizer


def check_facts(p: Params, wording: evaluate.Wording) -> None:
    """Raise ValueError if the facts that are asked for do not fit into the shortest document to measure."""
    length, rng = p.measured_lengths[0], np.random.default_rng(0)
    source = wording.encode(evaluate.NOISE)
    try:
        needles(wording, source, length, rng, n_keys=p.eval_facts)
        if p.eval_passkeys:
            passkey(wording, source, length, rng)
    except ValueError as error:
        raise ValueError(
            f"eval_facts = {p.eval_facts}: they do not fit into documents of {length} tokens, the shortest that are "
            "measured: ask for fewer, or leave shorter lengths out of eval_lengths."
        ) from error


def check_amount(material: Material) -> None:
    """Raise ValueError if the text is shorter than what a stage of the run reads of it at least."""
    p, there = material.params, len(material.text.train)
    if material.facts is not None or find(p.method).positions is None:
        return
    needs = {f"a document of target_length = {p.target_length}": p.target_length}
    if analyses(p):
        scored = p.analysis_documents * (p.analysis_length or p.probe_window)
        needs["the token analysis (analysis_documents of analysis_length, and a sample of H')"] = scored + (
            p.probe_length or p.probe_window
        )
    for name, length in needs.items():
        if there < length:
            raise ValueError(
                f"text = {p.text!r}: {there:,} tokens to train on, and {name} needs {length:,}: name more text, or "
                "take shorter lengths."
            )


def english_wording(tokenizer: PreTrainedTokenizerBase) -> evaluate.Wording:
    """The wording of the tasks with words of the English that every Python carries, for text in any language."""
    return evaluate.sentences(tokenizer, "\n".join(reference_texts()))


def analyses(p: Params) -> bool:
    """Whether a run makes a token analysis: if its method selects sentences, and does so by anchors."""
    return find(p.method).text == "selected" and p.selection in ("anchored", "density")

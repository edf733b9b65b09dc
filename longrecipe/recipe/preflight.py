"""Checks before any work: the model, its tokenizer, the text and the disk of a run, each within seconds.

A run of a 7B model takes a day, so problems must be found here, with a message that says how to fix them.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as hf_logging

from longrecipe import evaluate, models, train
from longrecipe.evaluate.tasks import fact_counts, needles, passkey
from longrecipe.merge import COMPUTED, check_rule
from longrecipe.models.checkpoint import Checkpoint, few, load_tensor, read_checkpoint
from longrecipe.models.rope import extend_config
from longrecipe.recipe import benchmarks
from longrecipe.recipe.context_scores import needs_probe
from longrecipe.recipe.disk import check_disk
from longrecipe.recipe.durations import check_days, check_tagging
from longrecipe.recipe.export import check_out
from longrecipe.recipe.run_text import check_text
from longrecipe.settings import Params
from longrecipe.system.errors import reason
from longrecipe.system.files import check_writable
from longrecipe.system.paths import cache_dir, check_pointer
from longrecipe.train import attention_of, check_installed
from longrecipe.train.loss import fuse_loss, logit_changes
from longrecipe.train.memory import setup_of

log = logging.getLogger(__name__)
_ADVICE = "save it again with transformers (from_pretrained, then save_pretrained)"


def check(p: Params, fetch: bool = True, here: bool = True) -> PreTrainedTokenizerBase | None:
    """Run all checks that are possible before the text is tokenised, within seconds. Returns the run's tokenizer.

    fetch: whether a model from a hub is downloaded to check its tensors. If not, None is returned for such a model,
    and datasets of a hub are looked up. here: whether the run is for this machine. If not, packages, speed, disk and
    text are not checked.
    Raises ValueError or OSError (also FileNotFoundError), with the value, what is allowed and how to fix it.
    """
    config, is_remote = check_config(p), models.is_remote(p.source, p.scale)
    if here:
        check_training(p, config)
        check_out(p)
    if here and is_remote:
        # Before a long download. The checks that need the tokenizer follow after it.
        check_text(p, on_hub=not fetch)
    if is_remote and not fetch:
        log.info("%s is on a hub: its weights and tokenizer are checked after the run has downloaded them.", p.source)
        return None
    tokenizer = load_tokenizer(p, config)
    check_weights(p, config)
    if here:
        check_text(p, tokenizer, on_hub=not fetch)
    check_facts(p, evaluate.planted(tokenizer, p.fact_values) if p.scale == "mini" else evaluate.sentences(tokenizer))
    benchmarks.check(p, tokenizer)
    return tokenizer


def check_for_analysis(p: Params) -> PreTrainedTokenizerBase:
    """The checks of a run of which only the token analysis and positions are needed. Returns its tokenizer.

    Raises the errors of `check`.
    """
    check_writable(cache_dir(), "cache ($LONGRECIPE_CACHE)")
    train.check_tracker(p.report_to)
    config = check_config(p)
    check_text(p)
    if not models.is_remote(p.source, p.scale):
        check_weights(p, config, trains=False)
    return load_tokenizer(p, config)


def check_config(p: Params) -> PreTrainedConfig:
    """The configuration of a run's model. Raises ValueError if the recipe cannot extend the model, and
    FileNotFoundError if there is no such model."""
    config = models.config_of(p.source, p.scale)
    if getattr(config, "quantization_config", None):
        raise ValueError(
            f"weights = {p.source!r}: the weights are quantised (quantization_config in config.json), and quantised "
            "weights cannot be trained or averaged; use the model in bfloat16 or float32."
        )
    own = getattr(config, "max_position_embeddings", None)
    if own and p.window > own:
        raise ValueError(
            f"window = {p.window}: the model's own is {own} (max_position_embeddings in config.json), and W must not "
            f"be longer than what the model was trained on; set {own} or less, or null."
        )
    extend_config(config, p.target_length, rule=p.rope_rule, factor=p.rope_factor, window=p.window)
    return config


def check_training(p: Params, config: PreTrainedConfig) -> None:
    """Raise ValueError if a package is missing, or if training would take days or more disk than there is, and OSError
    if its files cannot be written."""
    check_days(p, config)
    check_tagging(p)
    setup = setup_of(p)
    check_installed(setup)
    if p.eval_steps and setup.shards > 1:
        raise ValueError(
            f"eval_steps = {list(p.eval_steps)} with weights sharded over {setup.shards} processes: copies of the "
            "weights can only be kept if each process has all of them; set eval_steps to null, or train without FSDP "
            "and ZeRO-3."
        )
    train.check_tracker(p.report_to)
    check_writable(cache_dir(), "cache ($LONGRECIPE_CACHE)")
    check_disk(p, config)


def check_weights(p: Params, config: PreTrainedConfig, trains: bool = True) -> None:
    """Compare the tensors of a run's model with its architecture, and check that their values are finite.

    trains: whether all stages run, or only the token analysis.
    Raises ValueError if a file is not a safetensors file, if a tensor is missing, unused or has another shape, or if
    the run's attention, loss, token analysis or merge rule does not work with this architecture.
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
            "if the head shares the weights of the embeddings."
        )
    if found["mismatched_keys"]:
        name, there, needed = sorted(found["mismatched_keys"])[0]
        raise ValueError(
            f"{folder}: {name} is {tuple(there)}, but config.json asks for {tuple(needed)}; use the config.json that "
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
                "averaged; use the model in bfloat16 or float32."
            )


def _check_values(stored: Checkpoint) -> None:
    # One tensor at a time, which is as fast as the disk.
    names = [name for name in stored.files if not COMPUTED.search(name)]
    if name := train.first_not_finite((name, load_tensor(stored, name)) for name in names):
        raise ValueError(
            f"{stored.folder / stored.files[name]}: {name} has NaN or infinite values, so the model cannot be trained; "
            "download it again, or use an earlier checkpoint of its training."
        )


def _check_attention(p: Params, network: PreTrainedModel) -> None:
    wanted = attention_of(p.attention)
    try:
        network.set_attn_implementation(wanted)
    except (ValueError, ImportError) as error:
        others = "eager" if wanted == attention_of("auto") else "auto, or eager"
        raise ValueError(
            f"attention = {p.attention!r}: {type(network).__name__} does not support {wanted} ({reason(error)}); set "
            f"attention: {others}, which every model supports."
        ) from error


def _check_logits(p: Params, network: PreTrainedModel) -> None:
    changes = logit_changes(network.config)
    if changes and needs_probe(p):
        raise ValueError(
            f"{type(network).__name__} changes its logits ({' and '.join(changes)}), but the token analysis needs "
            "unchanged ones: set selection: random, or another method, such as pose, loss_weight: none and "
            "document_candidates: 1."
        )
    if p.fused_loss:
        # This must be the last check of this network, because its forward is replaced.
        fuse_loss(network, p.loss_chunk)


def _on_meta(folder: Path, config: PreTrainedConfig) -> tuple[PreTrainedModel, dict]:
    # By transformers' own loader, without values, because it knows which tensors are renamed, tied and ignored.
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
    """Hide the progress bars and reports of transformers, as the error has their content."""
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
    """The tokenizer of a run's model. Raises ValueError if there is none, or if it has more ids than the model."""
    folder = models.folder_of(p.source, p.scale, with_weights=False)
    for name in ("tokenizer.json", "tokenizer.model"):
        if (folder / name).is_file():
            check_pointer(folder / name)
    try:
        tokenizer = models.load_tokenizer(p.source, p.scale)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder} has no tokenizer that transformers can read ({reason(error)}): copy the model's tokenizer.json "
            "and tokenizer_config.json into it; slow ones need `pip install sentencepiece`."
        ) from error
    rows, highest = config.get_text_config().vocab_size, max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise ValueError(
            f"{folder}: the tokenizer has token ids up to {highest}, but the model has {rows} embeddings: use the "
            f"model's own tokenizer, or call resize_token_embeddings({highest + 1}), train the new rows and save the "
            "model."
        )
    return tokenizer


def check_facts(p: Params, wording: evaluate.Wording) -> None:
    """Raise ValueError if the requested number of facts does not fit into the shortest document to measure."""
    length, rng = p.measured_lengths[0], np.random.default_rng(0)
    source = wording.encode(evaluate.NOISE)
    try:
        needles(wording, source, length, rng, **fact_counts(wording, p.eval_facts))
        if p.eval_passkeys:
            passkey(wording, source, length, rng)
    except ValueError as error:
        raise ValueError(
            f"eval_facts = {p.eval_facts}: they do not fit into documents of {length} tokens, the shortest length to "
            "measure: use fewer, or remove short lengths from eval_lengths."
        ) from error

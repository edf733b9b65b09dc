"""The table of training methods: the text that each reads, its positions and options, its title, colour and marker."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from longrecipe.positions.rivals import (
    cream,
    endprompt,
    endprompt_law,
    flt,
    flt_law,
    pose,
    pose_law,
    rpes,
    rpes_law,
)
from longrecipe.positions.transforms import longrecipe, longrecipe_law, source, stratified, stratified_law

PositionFunction = Callable[[Sequence[int], int, np.random.Generator], np.ndarray]
Law = Callable[[np.ndarray, int], dict[str, float]]
_OF_THE_SAMPLE = "segment_starts"


@dataclass(frozen=True)
class Method:
    """A way to train for a longer window: which text of a document it reads, and which positions it assigns to it.

    positions: a transform of this package, or None if nothing is trained. text: `"selected"` takes n tokens of
    sentences with anchor tokens, `"first"` the first n tokens, `"whole"` all T tokens. title: the name in tables.
    colour, marker: in every figure, from Okabe and Ito's palette as #RRGGBB, and in matplotlib's notation. law: the
    closed form of `coverage.summary` with default options, from segment lengths int64 [N] and T, if one is known.
    """

    positions: PositionFunction | None
    text: Literal["selected", "first", "whole"]
    summary: str
    title: str
    colour: str
    marker: str
    law: Law | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The options of its transform and their values: its keyword-only arguments except those from the sample."""
        return {name: value for name, value in _keywords(self.positions).items() if name != _OF_THE_SAMPLE}

    def draw(self, sample: Mapping[str, Any], target_length: int, rng: np.random.Generator) -> np.ndarray:
        """position_ids int64 [n] of a sample with segment_lengths, and segment_starts if the transform reads them;
        contiguous if the method has no transform."""
        if self.positions is None:
            return np.arange(int(np.sum(sample["segment_lengths"])))
        reads = _OF_THE_SAMPLE in _keywords(self.positions)
        more = {_OF_THE_SAMPLE: sample[_OF_THE_SAMPLE]} if reads else {}
        return self.positions(sample["segment_lengths"], target_length, rng, **more)


@functools.cache
def _keywords(function: PositionFunction | None) -> dict[str, Any]:
    """The keyword-only arguments of a transform, and their values."""
    found = inspect.signature(function).parameters.values() if function else ()
    return {p.name: p.default for p in found if p.kind is p.KEYWORD_ONLY}


METHODS: dict[str, Method] = {
    "longrecipe": Method(
        longrecipe,
        "selected",
        "anchored sentences at random ordered positions (Algorithm 1)",
        title="LongRecipe",
        colour="#0072B2",
        marker="o",
        law=longrecipe_law,
    ),
    "stratified": Method(
        stratified,
        "selected",
        "anchored sentences, one in each equal stratum of the target",
        title="stratified",
        colour="#56B4E9",
        marker="D",
        law=stratified_law,
    ),
    "source": Method(
        source,
        "selected",
        "anchored sentences at their true positions in the document",
        title="source",
        colour="#009E73",
        marker="v",
    ),
    "pose": Method(
        pose,
        "first",
        "two chunks of the first n tokens, one random skip between them",
        title="PoSE",
        colour="#E69F00",
        marker="s",
        law=pose_law,
    ),
    "rpes": Method(
        rpes,
        "first",
        "the first n tokens at a sorted random sample of all T positions",
        title="RPES",
        colour="#D55E00",
        marker="^",
        law=rpes_law,
    ),
    "cream": Method(
        cream,
        "first",
        "the first n tokens as head, tail and a middle between them",
        title="CREAM",
        colour="#CC79A7",
        marker="d",
    ),
    "endprompt": Method(
        endprompt,
        "first",
        "the first n tokens, the last few of them at the end of the target",
        title="EndPrompt",
        colour="#7F7F7F",
        marker="p",
        law=endprompt_law,
    ),
    "flt": Method(
        flt,
        "whole",
        "full-length training: all T tokens at their own positions",
        title="FLT",
        colour="#000000",
        marker="X",
        law=flt_law,
    ),
    "none": Method(
        None,
        "first",
        "control: raise the RoPE base, train nothing",
        title="RoPE rule alone",
        colour="#CC79A7",
        marker="*",
    ),
}


def find(name: str) -> Method:
    """The method of a name in METHODS, with the options of its transform that follow a colon.

    Example: `find("pose:n_chunks=4")`, `find("longrecipe:max_gap=64")`. A method with options has no law.
    Raises ValueError that lists what is allowed for an unknown name or option or a value that is not a number.
    """
    base, colon, listed = name.partition(":")
    if base not in METHODS:
        raise ValueError(f"method = {name!r}: allowed are {', '.join(METHODS)}")
    found, options = METHODS[base], {}
    for pair in listed.split(",") if colon else ():
        key, _, value = pair.partition("=")
        if key in options:
            raise ValueError(f"method = {name!r}: {key} is given twice")
        if key not in found.options:
            allowed = ", ".join(f"{base}:{option}=NUMBER" for option in found.options) or f"{base}, without options"
            raise ValueError(f"method = {name!r}: unknown option {key!r}; allowed are {allowed}")
        try:
            options[key] = int(value) if isinstance(found.options[key], int | None) else float(value)
        except ValueError:
            raise ValueError(f"method = {name!r}: {key} = {value!r} is not a number of its kind") from None
    if not options:
        return found
    chosen = replace(found, positions=functools.partial(found.positions, **options), law=None)
    # The transform checks its options when it draws: fail now instead of in a run.
    chosen.draw({"segment_lengths": [4, 4, 4], _OF_THE_SAMPLE: [0, 4, 8]}, 24, np.random.default_rng(0))
    return chosen

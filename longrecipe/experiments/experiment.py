"""What an experiment is: the runs that an item of the paper needs, and how they are trained and measured."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from longrecipe import settings
from longrecipe.experiments import runner
from longrecipe.experiments.protocols import Protocol
from longrecipe.settings import Params, ParamsError

# More for the model that the claims rest on.
SEEDS, MORE_SEEDS = 3, {"llama3": 5}


@dataclass(frozen=True)
class Experiment:
    """One item of the paper, such as Table 1: its grid of runs, how they are measured, and its table in the results.

    Args:
        name: on the command line, such as `table1`.
        title: of its section in results/README.md.
        variants: settings that differ between the runs of one seed.
        protocol: how a run is trained and measured.
        section: makes the table of results/README.md from the scores of all runs in the protocol's store; None for
            experiments whose tables need more than scores.
        models: the models of the grid, by default.
        targets: target lengths in tokens of the mini models, by default; empty takes the target of the params file.
        fixed: further settings that the user cannot change, because the table's names would no longer be true.
        main: the variants that the claims rest on, if not all have as many seeds: these have 5 on llama3.
        defaults: settings of all runs that differ from those of the model's params file, such as its scale and profile.
        n_seeds: seeds of each variant, by default.
    """

    name: str
    title: str
    variants: tuple[Mapping[str, Any], ...]
    protocol: Protocol
    section: Callable[[pd.DataFrame], pd.DataFrame] | None = None
    models: tuple[str, ...] = ("llama3",)
    targets: tuple[int, ...] = ()
    fixed: frozenset[str] = frozenset()
    main: tuple[Mapping[str, Any], ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    n_seeds: int = SEEDS

    @property
    def sets(self) -> set[str]:
        """The settings that the grid sets itself."""
        varied = {key for variant in self.variants for key in variant}
        return {"seed", *self.fixed, *varied, *(["target_length"] if self.targets else [])}

    def grid(
        self,
        models: str | Iterable[str] | None = None,
        *,
        seeds: Sequence[int] | None = None,
        targets: Any = None,
        **changes: Any,
    ) -> list[Params]:
        """The settings of all runs: every variant with every seed at every target of every model.

        Args:
            models: one model or several; None takes those of the experiment.
            seeds: None takes 0, 1 and 2, and for the methods and the main variants on llama3 0 to 4.
            targets: lengths in tokens, or one, or a list as text; None takes those of the experiment at scale mini, and
                elsewhere the target of the params file.
            changes: settings of all runs, by name.

        Raises ParamsError for what cannot be run.
        """
        models = [models] if isinstance(models, str) else models or self.models
        lengths, changes = _lengths(targets), {**self.defaults, **changes}
        return [
            settings.load(model, seed=seed, **target, **variant, **changes)
            for model in models
            for target in self._targets(model, lengths, changes)
            for seed in (range(MORE_SEEDS.get(model, self.n_seeds)) if seeds is None else seeds)
            for variant in self.variants
            if seeds is not None or seed < self._n_seeds(model, variant)
        ]

    def from_notebook(self, namespace: Mapping[str, Any], **fixed: Any) -> list[Params]:
        """The grid that a notebook asks for: model, n_seeds, targets and settings of runs, see `settings.given_in`.

        Args:
            namespace: `globals()` of the notebook.
            fixed: arguments of `grid` that the notebook sets and its user does not.

        Raises ParamsError for unknown names, impossible values, and settings that the grid sets itself.
        """
        own = {"n_seeds"} | ({"targets"} if self.targets else set())
        given = settings.given_in(namespace, {*Params.model_fields, "profile", *own})
        own -= fixed.keys()
        # These are arguments of the grid, but no settings of this notebook.
        if unknown := given.keys() & ({"models", "seeds", "targets", *fixed} - own):
            allowed = ", ".join(["model", *sorted(own), "profile", *Params.model_fields])
            raise ParamsError(f"unknown parameter {sorted(unknown)[0]!r}. Allowed are {allowed}.")
        model, n_seeds = str(given.pop("model")), given.pop("n_seeds", None)
        if settings.is_file(model):
            # A notebook's cell always has a scale; a file names its own.
            given.pop("scale", None)
        if n_seeds is not None and not (isinstance(n_seeds, int) and n_seeds >= 2):
            raise ParamsError(f"n_seeds = {n_seeds!r}: give 2 seeds or more, or there is no interval.")
        seeds = {} if n_seeds is None else {"seeds": range(n_seeds)}
        self.check(given)
        return self.grid(model, **seeds, **given, **fixed)

    def check(self, changes: Mapping[str, Any]) -> None:
        """Raise ParamsError if changes contain settings that the grid sets itself."""
        if taken := changes.keys() & self.sets:
            targets = " and targets" if self.targets else ""
            raise ParamsError(
                f"{', '.join(sorted(taken))}: the grid of {self.name} sets it. Choose seeds{targets} instead, or use "
                "notebook 03 for a single run."
            )

    def is_finished(self, p: Params) -> bool:
        """Whether a run has finished, with everything that this experiment measures."""
        return runner.is_finished(p, self.protocol)

    def run(self, grid: Iterable[Params], *, force: bool = False, alone: bool = True) -> None:
        """Run the settings of a grid that have not finished yet, see `runner.run`."""
        runner.run(grid, self.protocol, force=force, alone=alone)

    def _targets(self, model: str, lengths: list[int] | None, changes: Mapping[str, Any]) -> list[dict[str, int]]:
        if lengths is None and self.targets and changes.get("scale", "mini") == "mini" and not settings.is_file(model):
            lengths = list(self.targets)
        return [{"target_length": length} for length in lengths] if lengths else [{}]

    def _n_seeds(self, model: str, variant: Mapping[str, Any]) -> int:
        return MORE_SEEDS.get(model, self.n_seeds) if self.targets or variant in self.main else self.n_seeds


def _lengths(targets: Any) -> list[int] | None:
    """Lengths given as one number, as a list, or as the text of a list, which papermill passes."""
    if targets is None:
        return None
    try:
        listed = [targets] if isinstance(targets, int | float) else settings.read_list(targets)
        lengths = TypeAdapter(list[int]).validate_python(listed)
        if isinstance(targets, bool) or not lengths:
            raise ValueError("no length")
    except (ValueError, ValidationError) as error:
        raise ParamsError(
            f"targets = {targets!r}: a length in tokens, such as 4096, or a list of them, such as [2560, 4096]."
        ) from error
    return lengths

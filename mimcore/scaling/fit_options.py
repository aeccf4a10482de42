"""The ``fit`` block of ``params.yaml``."""

import re
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from mimcore import registry
from mimcore.definition import Definition, nearest
from mimcore.errors import UserError
from mimcore.scaling.claim import Claim
from mimcore.scaling.claims import DEFAULTS
from mimcore.scaling.conditions import rows_where
from mimcore.scaling.table import POOL, Setting

#: What is tried unless ``fit.laws`` says otherwise: those of the table in docs/laws.md that need no guess of a shape.
LAWS = ("power", "model_data", "chinchilla", "joint", "effective", "repetition", "task")
#: The columns that ``holdout`` may name, without a row.
NO_ROWS = {
    **{name: np.empty(0) for name in ("unique_images", "encoder_params", "images_seen", "val_loss")},
    **{name: np.empty(0, dtype=object) for name in ("run", *Setting._fields, "subset", "seed", "source", POOL)},
}


class Config(Definition):
    """The ``fit`` block of ``params.yaml``."""

    #: The law of each setting's curve in unique images: a module in ``mimcore/scaling/laws`` with ``fit``.
    law: str = "power"
    #: The laws that are tried and chosen from by what they would have forecast (docs/laws.md): modules in
    #: ``mimcore/scaling/laws``. One with more parameters than there are different runs is left out, and said.
    laws: tuple[str, ...] = LAWS
    #: Which runs are forecast for that choice, as a condition such as ``encoder_params > 1e8 or subset == 'n8192'``; by default
    #: those with the largest subset, the largest model and the greatest length, each in turn.
    holdout: str | None = None
    #: What it does to a law that the runs' images are drawn from several pools. ``shifted``: each pool but the one with the most runs has a
    #: level of its own, a constant that every law of the runs of all pools adds, and curves in unique images are of one pool each.
    #: Losses differ so where each pool has its own validation images, or where one trains on other images than one validates on: Xie et
    #: al. 2023's runs on ImageNet-22K lie 0.005 above what as many images of ImageNet-1K would give (docs/laws.md). ``alike``: images of
    #: one kind, validated on the same; no level is looked for, and claims and the report compare runs of all pools.
    pools: Literal["shifted", "alike"] = "shifted"
    #: Replicates behind each interval.
    bootstrap: int = Field(1000, ge=100, le=100_000)
    #: Coverage of every interval.
    confidence: float = Field(0.95, gt=0.5, lt=1)
    #: Seed of the bootstrap's draws.
    seed: int = Field(0, ge=0)
    #: How many doublings beyond the largest subset the law is asked for.
    octaves: int = Field(2, ge=0, le=6)
    #: A validation loss has risen again if it ends above its lowest value by more than this fraction of it (and by more
    #: than twice the seed noise). Of the runs of Xie et al. 2023 at 500K iterations, six rise by 3 to 6 %, three by 0.3
    #: to 1.1 %, and the others not at all.
    margin: float = Field(0.01, ge=0)
    #: Leave the sizes at which the validation loss rose again out of the laws of their setting, if enough sizes
    #: remain: an over-fitted run is in another regime. What is left out is listed with the fit.
    exclude_risen: bool = True
    #: Metrics beside the validation loss of which the report says where more images stop paying and which runs to make next: headlines,
    #: as task/metric. Where no law forecasts one better than can be done without a law, the report says that instead.
    outlook: tuple[str, ...] = ()
    #: The score of a guess, by task/metric, such as ``linear/top1: 0.1`` for ten classes alike. The laws of such a metric are of the odds,
    #: (1 - score) / (score - guess), so that none of their forecasts leaves that range; of other scores they are of the error, 1 - score.
    guess: dict[str, float] = Field(default_factory=dict)
    #: What is held against the runs, by name (docs/claims.md): what a study's paper claims, or else what the literature says of
    #: masked image modeling in general.
    claims: dict[str, Claim] = DEFAULTS

    @model_validator(mode="after")
    def _has_the_pools_that_it_speaks_of(self) -> "Config":
        for name, claim in self.claims.items():
            if self.pools == "alike" and POOL in claim.at:
                raise ValueError(
                    f"claims.{name}.at.pool: 'pools: alike' takes all pools for one; name the subsets that are meant"
                )
        return self

    @field_validator("law", "laws")
    @classmethod
    def _is_there(cls, given: str | tuple[str, ...]) -> str | tuple[str, ...]:
        known = registry.names("law")
        for name in (given,) if isinstance(given, str) else given:
            if name not in known:
                raise ValueError(f"there is no law called '{name}'; {nearest(name, known)}")
        return given

    @field_validator("outlook", "guess")
    @classmethod
    def _are_metrics(cls, given: Any) -> Any:
        for name in given:
            if not re.fullmatch(r"\w+/\w+", name):
                raise ValueError(f"'{name}' is no task/metric, such as linear/top1")
        for name, score in given.items() if isinstance(given, dict) else ():
            if not 0 <= score < 1:
                raise ValueError(f"the score of a guess is at least 0 and below 1, and {name} has {score:g}")
        return given

    @field_validator("holdout")
    @classmethod
    def _is_a_condition(cls, given: str | None) -> str | None:
        if given is not None:
            try:
                rows_where(given, NO_ROWS, "this condition")
            except UserError as error:
                raise ValueError(str(error)) from None
        return given

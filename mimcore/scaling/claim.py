"""What a study may claim: a statement of a paper in a form that runs can be held against."""

from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Literal, get_args

from pydantic import Field, model_validator

from mimcore.definition import Definition, nearest
from mimcore.scaling.table import POOL, PRETRAIN

Kind = Literal[
    "improves_with_data",
    "improves_with_model",
    "improves_with_length",
    "better",
    "equivalent",
    "gain_shrinks_with_data",
    "gain_shrinks_with_model",
    "gain_shrinks_with_length",
    "gain_grows_with_data",
    "gain_grows_with_model",
    "gain_grows_with_length",
    "overfits",
    "rank_correlated",
]
#: What tells runs apart. ``after`` is the run that a second phase started from, without its model and seed; ``none`` otherwise. ``pool``
#: is what the subset is drawn from: a condition alone, since two subsets tell two pools apart.
Coordinate = Literal["objective", "model", "subset", "schedule", "seed", "after", "pool"]
COORDINATES: tuple[Coordinate, ...] = get_args(Coordinate)
#: Those in which two runs may be compared.
COMPARED = tuple(name for name in COORDINATES if name != POOL)
#: The coordinate that each axis is told by.
AXES: dict[str, Coordinate] = {"data": "subset", "model": "model", "length": "schedule"}
#: Words that stand for the end of an axis, whatever it is called in a study.
ENDS: dict[Coordinate, tuple[str, str]] = {
    "subset": ("smallest", "largest"),
    "model": ("smallest", "largest"),
    "schedule": ("shortest", "longest"),
}
#: A name, or a pattern such as ``n*``; several are alternatives.
Names = str | tuple[str, ...]
#: One of two things that are compared: a name, or what it has in each coordinate.
Side = str | dict[Coordinate, Names]


class Claim(Definition):
    """One entry of ``fit.claims`` in ``params.yaml``; docs/claims.md says what each kind asks of the runs."""

    kind: Kind
    #: What is claimed, for the reader of the report.
    words: str
    #: Who claimed it, and where.
    source: str = ""
    #: What it is claimed of: task/metric.
    measure: str = Field(default=f"{PRETRAIN}/val_loss", pattern=r"^\w+/\w+$")
    #: The two that are compared, the second being the better one. By default the ends of the kind's own axis.
    between: tuple[Side, Side] | None = None
    #: How much it must be, in the measure's own unit, or in per cent of the first of the two, as '1 %'.
    margin: float | str = 0.0
    #: Which runs are meant: names, patterns, or words such as 'largest', by coordinate. All of them by default, each pool by itself.
    at: dict[Coordinate, Names] = Field(default_factory=dict)
    #: Of 'overfits', what is looked at: the final validation loss above its lowest ('rise'), the loss on unseen images above that on
    #: seen ones ('gap'), or the measure at the longest schedule behind that at the shortest ('length').
    detector: Literal["rise", "gap", "length"] = "rise"
    #: Of 'rank_correlated', the other measure.
    against: str = Field(default=f"{PRETRAIN}/val_loss", pattern=r"^\w+/\w+$")
    #: What the interval is taken over. Settings (models, lengths, ...) where a study has one seed: it then speaks of settings like
    #: these, not of these very settings run again.
    over: Literal["seeds", "settings"] = "seeds"

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "Claim":
        if isinstance(self.margin, str):
            try:
                self._percentage()
            except ValueError:
                raise ValueError("margin must be a number, or a percentage such as '1 %'") from None
        limit = self.limit
        if self.kind == "equivalent" and not limit > 0:
            raise ValueError("an equivalence needs a margin above 0, the difference that would matter")
        if limit < 0:
            raise ValueError("margin must be 0 or more")
        if self.kind in ("better", "equivalent") and self.between is None:
            raise ValueError(f"'{self.kind}' needs 'between', the two that are compared")
        if any(POOL in side for side in self.between or () if not isinstance(side, str)):
            raise ValueError(
                "'between' takes no pool; name the two subsets that are compared, or write the pool under 'at'"
            )
        if self.kind == "rank_correlated":
            if self.between is not None or self.relative or limit >= 1:
                raise ValueError("'rank_correlated' takes no 'between', and a margin below 1, the least correlation")
            if self.measure == self.against:
                raise ValueError("'rank_correlated' needs a 'measure' that is not 'against'")
        return self

    @property
    def limit(self) -> float:
        """The margin, as a fraction where it is ``relative``."""
        return self._percentage() / 100 if isinstance(self.margin, str) else self.margin

    @property
    def relative(self) -> bool:
        """Whether the margin, and with it the effect, is a share of the first of the two."""
        return isinstance(self.margin, str)

    @property
    def axis(self) -> str | None:
        """``data``, ``model`` or ``length``, where the kind is about one."""
        return self.kind.rpartition("_")[2] if "_with_" in self.kind else None

    def _percentage(self) -> float:
        text = str(self.margin).strip()
        if not text.endswith("%"):
            raise ValueError
        return float(text[:-1])


def matches(name: str, wanted: Names) -> bool:
    """Whether a name is one of those wanted."""
    return any(fnmatchcase(name, pattern) for pattern in ([wanted] if isinstance(wanted, str) else wanted))


def side_coordinates(claim: Claim, known: Mapping[Coordinate, Collection[str]]) -> tuple[dict[Coordinate, Names], ...]:
    """The two sides of ``between`` as coordinates, a plain name being looked up.

    Raises:
        ValueError: a name is unknown, or is one of several coordinates; a sentence.
    """
    found = []
    for side in claim.between or ():
        if not isinstance(side, str):
            found.append(dict(side))
            continue
        own = AXES.get(claim.axis or "") if claim.kind.startswith("improves") else None
        if claim.kind == "overfits":
            own = "schedule" if claim.detector == "length" else "subset"
        options = [own] if own else [c for c in COMPARED if side in known.get(c, ()) or side in ENDS.get(c, ())]
        if len(options) != 1 or options[0] is None:
            names = sorted({name for c in COMPARED for name in known.get(c, ())})
            reason = f"is a name of {' and of '.join(map(str, options))}" if options else "is no name of this study"
            cure = "write a mapping, such as {model: largest}" if options else nearest(side, names).removesuffix(".")
            raise ValueError(f"between: '{side}' {reason}; {cure}.")
        found.append({options[0]: side})
    return tuple(found)


def mistakes(
    claim: Claim, known: Mapping[Coordinate, Collection[str]], metrics: Mapping[str, Collection[str]], where: str
) -> Iterator[str]:
    """Say what in a claim names nothing of the study, and what cannot be compared.

    Args:
        claim: to be looked at.
        known: the names of the study, for each coordinate; ``after`` may be left out.
        metrics: those of each task of the study.
        where: its dotted path.
    """
    try:
        sides = side_coordinates(claim, known)
    except ValueError as error:
        yield f"{where}.{error}"
        sides = ()
    for place, names in [("at", claim.at), *(("between", side) for side in sides)]:
        for coordinate, wanted in names.items():
            for name in [wanted] if isinstance(wanted, str) else wanted:
                if coordinate not in known or name in ENDS.get(coordinate, ()):
                    continue
                if not any(matches(one, name) for one in known[coordinate]):
                    yield f"{where}.{place}.{coordinate}: '{name}' is not in the study; {nearest(name, known[coordinate])}"
    for option, value in (("measure", claim.measure), ("against", claim.against)):
        task, metric = value.split("/")
        if task == PRETRAIN:
            continue
        if task not in metrics:
            yield f"{where}.{option}: '{task}' is no task of the study; {nearest(task, metrics)}"
        elif metric not in metrics[task]:
            yield f"{where}.{option}: task '{task}' has no metric '{metric}'; {nearest(metric, metrics[task])}"
    if any("objective" in side for side in sides) and claim.measure.startswith(f"{PRETRAIN}/"):
        yield (
            f"{where}.measure: the losses of two objectives are of different things and cannot be compared; name a task's "
            "measure, such as linear/top1."
        )

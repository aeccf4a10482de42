"""What a claim says is positive, measured on the runs: an effect for each setting and seed."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mimcore.scaling.claim import AXES, COORDINATES, ENDS, Claim, Coordinate, Names, matches, side_coordinates
from mimcore.scaling.table import VAL_LOSS, Run

#: Setting to seed to the effect.
Effects = dict[str, dict[str, float]]
Value = Callable[[Run], float]
Sides = tuple[Mapping[Coordinate, Names], ...]

#: How far along its axis a run is.
MAGNITUDES: dict[Coordinate, Callable[[Run], float]] = {
    "subset": lambda run: run.unique_images,
    "model": lambda run: run.encoder_params,
    "schedule": lambda run: run.images_seen,
}


class Measured(NamedTuple):
    """Effects, and what they are in words."""

    effects: Effects
    what: str


@dataclass(frozen=True)
class Comparison:
    """Two runs that differ in ``sides`` alone or, without these, that are at the two ends of ``axis``.

    ``value`` says how good a run is; a difference is divided by ``base`` of the first run if there is one.
    """

    sides: Sides
    axis: Coordinate | None
    value: Value
    base: Value | None

    @property
    def differing(self) -> set[Coordinate]:
        """The coordinates in which the two differ."""
        return {name for side in self.sides for name in side} or {name for name in (self.axis,) if name}

    def effects(self, runs: Sequence[Run]) -> Effects:
        """Second minus first, for each setting in which there are both."""
        found = {where: self.of(members) for where, members in grouped(runs, self.differing).items()}
        return {where: effect for where, effect in found.items() if effect}

    def of(self, members: Sequence[Run]) -> dict[str, float]:
        """The same of runs that are alike in everything else, for each seed that both have; repetitions are averaged."""
        values = [self._means(part, self.value) for part in self.parts(members)]
        bases = self._means(self.parts(members)[0], self.base) if self.base else {}
        return {
            seed: (values[1][seed] - values[0][seed]) / abs(bases.get(seed, 1.0))
            for seed in values[0]
            if seed in values[1]
        }

    def parts(self, members: Sequence[Run]) -> tuple[list[Run], list[Run]]:
        """The runs of either side."""
        if self.sides:
            first, second = (selected(members, side) for side in self.sides)
            # With one length, the shortest is the longest.
            return ([], []) if {run.name for run in first} & {run.name for run in second} else (first, second)
        if self.axis is None:
            return [], []
        low, high = (_end(members, self.axis, word) for word in ENDS[self.axis])
        if low == high:
            return [], []
        return _at(members, self.axis, low), _at(members, self.axis, high)

    @property
    def words(self) -> tuple[str, str]:
        """What either side is called."""
        if self.sides:
            first, second = (" ".join(_told(side)) for side in self.sides)
            return first, second
        if self.axis is None:
            return "", ""
        first, second = ENDS[self.axis]
        return f"the {first} {self.axis}", f"the {second} {self.axis}"

    def _means(self, runs: Iterable[Run], value: Value) -> dict[str, float]:
        seeds: dict[str, list[float]] = defaultdict(list)
        for run in runs:
            seeds[run.seed].append(value(run))
        return {seed: float(np.mean(values)) for seed, values in sorted(seeds.items())}


def coordinate(run: Run, name: Coordinate) -> str:
    """What a run has in a coordinate; ``none`` after nothing, and of no known pool."""
    if name == "after":
        return run.after or "none"
    if name == "pool":
        return run.pool or "none"
    if name == "objective":
        return run.setting.objective.partition(" ")[0]  # what came before it follows in words
    return {"model": run.setting.model, "schedule": run.setting.schedule, "subset": run.subset, "seed": run.seed}[name]


def known_names(runs: Sequence[Run]) -> dict[Coordinate, set[str]]:
    """Every name of every coordinate."""
    return {name: {coordinate(run, name) for run in runs} for name in COORDINATES}


def selected(runs: Sequence[Run], wanted: Mapping[Coordinate, Names]) -> list[Run]:
    """The runs that have what is wanted; 'smallest' and the like are among all of ``runs``."""
    found = list(runs)
    for name, names in wanted.items():
        if isinstance(names, str) and names in ENDS.get(name, ()):
            end = _end(runs, name, names) if runs else 0.0
            found = _at(found, name, end)
        else:
            found = [run for run in found if matches(coordinate(run, name), names)]
    return found


def grouped(runs: Sequence[Run], without: set[Coordinate]) -> dict[str, list[Run]]:
    """Runs that are alike in everything but their seed, the objective and ``without``, by a label of what they share."""
    found: dict[str, list[Run]] = defaultdict(list)
    named: list[Coordinate] = ["model", "subset", "schedule", "after"]
    for run in runs:
        parts = {name: coordinate(run, name) for name in named if name not in without}
        after = parts.pop("after", "none")
        found[" ".join([*parts.values(), *([f"after {after}"] if after != "none" else [])])].append(run)
    return dict(found)


def measure(claim: Claim, runs: Sequence[Run], value: Value) -> Measured:
    """Measure the effect of a claim.

    Args:
        claim: any kind but ``rank_correlated``.
        runs: those that ``at`` means, of one objective unless objectives are compared.
        value: the measure of a run, turned so that more is better.

    Raises:
        ValueError: a side of the comparison names nothing that the runs have; a sentence.
    """
    sides = side_coordinates(claim, known_names(runs))
    axis = AXES[claim.axis] if claim.axis else None
    if claim.kind == "overfits":
        return _overfitting(claim, runs, value, sides)
    base = value if claim.relative else None
    if axis and claim.kind.startswith("gain"):
        return _gains(claim, runs, Comparison(sides, None if sides else axis, value, base), axis)
    compared = Comparison(sides, axis, value, base)
    first, second = compared.words
    return Measured(compared.effects(runs), f"what {second} gains over {first}")


def _overfitting(claim: Claim, runs: Sequence[Run], value: Value, sides: Sides) -> Measured:
    """How much more runs over-fit on the first subset than on the second, or how much worse they are at the second length."""
    if claim.detector == "length":
        compared = Comparison(sides, "schedule", lambda run: -value(run), value if claim.relative else None)
        return Measured(compared.effects(runs), f"what is lost from {compared.words[0]} to {compared.words[1]}")
    names = {
        "rise": "the rise of the validation loss above its lowest",
        "gap": "the gap between unseen and seen images",
    }
    excess: Value = (lambda run: -run.rise) if claim.detector == "rise" else (lambda run: -run.gap)
    base: Value = lambda run: run.values[VAL_LOSS] - run.rise  # noqa: E731
    compared = Comparison(sides, "subset", excess, base if claim.relative else None)
    return Measured(
        compared.effects(runs), f"{names[claim.detector]} on {compared.words[0]} minus that on {compared.words[1]}"
    )


def _gains(claim: Claim, runs: Sequence[Run], gain: Comparison, axis: Coordinate) -> Measured:
    """How much larger a gain is at one end of an axis than at the other."""
    sign = 1 if "shrinks" in claim.kind else -1
    effects: Effects = {}
    for where, members in grouped(runs, {axis, *gain.differing}).items():
        pair = _at_ends(gain, members, axis) if gain.sides else _by_doubling(gain, members, axis)
        effect = {seed: sign * (pair[0][seed] - pair[1][seed]) for seed in pair[0] if seed in pair[1]}
        if effect:
            effects[where] = effect
    ends = ENDS[axis][::sign]
    if not gain.sides:
        halves = ("lower", "upper")[::sign]
        return Measured(
            effects, f"what a doubling gains in the {halves[0]} half of the {axis}s minus that in the {halves[1]}"
        )
    first, second = gain.words
    return Measured(effects, f"what {second} gains over {first} at the {ends[0]} {axis} minus that at the {ends[1]}")


def _at_ends(gain: Comparison, members: Sequence[Run], axis: Coordinate) -> list[dict[str, float]]:
    """The gain for each seed at the first and at the last place of the axis at which both sides were run."""
    places = [{MAGNITUDES[axis](run) for run in part} for part in gain.parts(members)]
    shared = sorted(places[0] & places[1])
    if len(shared) < 2:
        return [{}, {}]
    return [gain.of(_at(members, axis, place)) for place in (shared[0], shared[-1])]


def _by_doubling(gain: Comparison, members: Sequence[Run], axis: Coordinate) -> list[dict[str, float]]:
    """The gain of a doubling for each seed, in the lower and in the upper half of the axis."""
    places = sorted({MAGNITUDES[axis](run) for run in members})
    if len(places) < 3:
        return [{}, {}]
    middle = min(places[1:-1], key=lambda place: abs(math.log(place**2 / (places[0] * places[-1]))))
    found = []
    for low, high in ((places[0], middle), (middle, places[-1])):
        here = [run for run in members if low <= MAGNITUDES[axis](run) <= high]
        found.append({seed: effect / math.log2(high / low) for seed, effect in gain.of(here).items()})
    return found


def _at(runs: Sequence[Run], axis: Coordinate, place: float) -> list[Run]:
    return [run for run in runs if MAGNITUDES[axis](run) == place]


def _end(runs: Sequence[Run], axis: Coordinate, word: str) -> float:
    places = [MAGNITUDES[axis](run) for run in runs]
    return min(places) if word == ENDS[axis][0] else max(places)


def _told(side: Mapping[Coordinate, Names]) -> list[str]:
    found = []
    for name, wanted in side.items():
        text = wanted if isinstance(wanted, str) else " or ".join(wanted)
        if name == "after":
            text = "from scratch" if text == "none" else f"after {text}"
        found.append(f"the {text} {name}" if text in ENDS.get(name, ()) else text)
    return found

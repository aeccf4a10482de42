"""The runs of a study by their names: where each stands in the grid, and which run a phase follows."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from mimcore.definition import Definition, nearest


class Coordinates(Definition):
    """Where a run stands in the grid; the names of its definitions."""

    objective: str
    model: str
    subset: str
    schedule: str
    seed: str

    @property
    def name(self) -> str:
        """The coordinates as one word: the name of a run in DVC, on disk and in the report."""
        return "-".join((self.objective, self.model, self.subset, self.schedule, self.seed))


class Phase(Coordinates):
    """A run that follows another run."""

    #: Name of the run that it follows, which may be a phase itself.
    after: str
    #: What it takes of that run: the encoder's weights to start from; the whole model as a teacher; or the whole state, to go on
    #: with the same run under another end of its schedule (docs/training.md).
    use: Literal["weights", "teacher", "state"]


def phase_name(phase: Phase, runs: Mapping[str, Coordinates]) -> str:
    """The name of a phase: ``COORDINATES-after-OBJECTIVE-SUBSET-SCHEDULE`` of the run that it follows.

    The model before the subset, and the seed at the end, stand there where they are others than the phase's own; so does what
    that run itself follows.

    Args:
        phase: of a study.
        runs: every run of the study by its name.
    """
    at = runs[phase.after]
    model, seed = [at.model] * (at.model != phase.model), [at.seed] * (at.seed != phase.seed)
    words = [phase.name, "after", at.objective, *model, at.subset, at.schedule, *seed]
    return "-".join(words) + (f"-{phase.after.removeprefix(f'{at.name}-')}" if isinstance(at, Phase) else "")


def in_order(phases: Mapping[str, Phase]) -> dict[str, Phase]:
    """The phases, each after the one that it follows; those of a circle are left out."""
    found: dict[str, Phase] = {}
    for _ in phases:
        found |= {n: p for n, p in phases.items() if n not in found and (p.after in found or p.after not in phases)}
    return found


def phase_mistakes(phases: Mapping[str, Phase], runs: Mapping[str, Coordinates]) -> Iterator[str]:
    """What is wrong with how phases follow runs, each as the end of a dotted path below ``study.phases``.

    Args:
        phases: of a study, by name.
        runs: all other runs of the study, by name.
    """
    ordered, known = in_order(phases), {**runs, **phases}
    for name, phase in phases.items():
        if phase.after not in known:
            yield f".{name}.after: the study has no run '{phase.after}'; {nearest(phase.after, known)}"
        elif name not in ordered:
            yield f".{name}.after: it follows itself, by way of {' and '.join(_circle(name, phases))}."
        elif name != (wanted := phase_name(phase, known)):
            yield f".{name}: a phase's name is its coordinates and those of the run before it; call it {wanted}."
        elif phase.use == "state":
            yield from (f".{name}{sentence}" for sentence in _state_mistakes(phase, known[phase.after], runs))


def _state_mistakes(phase: Phase, at: Coordinates, runs: Mapping[str, Coordinates]) -> Iterator[str]:
    """With the state, it is the same run but for its schedule."""
    for key in ("objective", "model", "subset", "seed"):
        own, other = getattr(phase, key), getattr(at, key)
        if own != other:
            yield f".{key}: '{own}' cannot go on from the state of '{other}'; only the schedule may be another (use: state)."
    if phase.name in runs:
        yield f": {phase.name} is a run of the study already, and a branch would only make it again; leave out one of them."


def _circle(name: str, phases: Mapping[str, Phase]) -> Sequence[str]:
    """The phases on the way from one back to itself, or to a circle above it."""
    way = [phases[name].after]
    while way[-1] in phases and way[-1] != name and way.count(way[-1]) == 1:
        way.append(phases[way[-1]].after)
    return way

"""The search over forms of a law of over-fitting, on the 63 runs of Xie et al. 2023: what each form forecasts from small models.

python benchmarks/forms.py TABLE                                    # every form of docs/examples/xie2023-forms.csv
python benchmarks/forms.py TABLE --form add/harm/hill-one           # one
python benchmarks/forms.py TABLE --csv FILE --json FILE

A form is a base, a treatment of repetition, a shape of the rise and a load, whose names make its name (docs/laws.md lists them).
Each is fitted by the package to the 42 runs of the Small, Base and Large models, without some of them, and asked for these; then
to the runs without the giant model, and without the Huge and giant runs of 500K iterations. Huber's threshold is fixed and
exponents may be as small as 0.01, as they were when the forms were first compared. No timing.

Two model sizes do not tell a floor from an amplitude and an exponent of size, so that without Large many optima are equal and
forecast Large differently: 'all_large' is the median over them, with their least and most beside it.
"""

import argparse
import csv
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mimcore.scaling.additive import FLOOR
from mimcore.scaling.covariate import with_covariates
from mimcore.scaling.estimate import fit_law, scaled
from mimcore.scaling.law import Numbers, Parameter, ScalingLaw, Variable, Variables, project
from mimcore.scaling.mapping import observe, read_map
from mimcore.scaling.observations import Observations
from mimcore.scaling.solve import solve
from mimcore.scaling.table import Array

EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples"
MAP, FORMS = EXAMPLES / "xie2023.map.yaml", EXAMPLES / "xie2023-forms.csv"
#: Huber's threshold on log residuals, and the least exponent of a term.
HUBER, LEAST = 0.002, 0.01
#: Points that starts are drawn from, and those of them that are tried.
DRAWS, STARTS = 20_000, 120
#: Optima whose losses differ by less than this fraction are equal.
EQUAL = 1e-4

Values = Mapping[str, Tensor]
Exponents = tuple[Tensor | float, ...]

#: Every parameter, in the units in which all that scales has a geometric mean of 1, and where its starts are drawn from.
PARAMETERS = {
    "floor": FLOOR,
    "A": Parameter("A", "value", 1e-9, 1e6, of_value=True),
    "B": Parameter("B", "value", 1e-9, 1e6, of_value=True),
    "rise": Parameter("rise", "value", 1e-9, 1e2, of_value=True),
    "alpha": Parameter("alpha", "1", LEAST, 5),
    "beta": Parameter("beta", "1", LEAST, 5),
    "gamma": Parameter("gamma", "1", -5, 5, log=False),
    "ratio": Parameter("ratio", "1", 1e-30, 1e30),
    "c": Parameter("c", "1", 1e-2, 1e2),
    "R": Parameter("R", "epochs", 1e-1, 1e5),
    "r": Parameter("r", "1", -5, 5, log=False),
    "memory": Parameter("memory", "of the load", 1e-30, 1e30),
    "k": Parameter("k", "1", 1e-1, 10),
    "q": Parameter("q", "1", 1e-2, 1e2),
    "s": Parameter("s", "1", 1e-2, 1e2),
}
DRAWN = {
    "alpha": (0.1, 1.0),
    "beta": (0.1, 1.2),
    "gamma": (-0.5, 0.5),
    "ratio": (0.1, 10),
    "c": (0.1, 5),
    "R": (10, 1e4),
    "r": (-0.5, 0.5),
    "k": (0.5, 4),
    "q": (0.2, 4),
    "s": (0.2, 4),
}
#: What a law is linear in comes first.
LINEAR = ("floor", "A", "B", "rise")
#: The terms A and B of a base, each by its exponents of model size and of data; Kaplan's has one term, in ``_kaplan``.
BASES: dict[str, Callable[[Values], tuple[Exponents, Exponents]]] = {
    "add": lambda p: ((p["alpha"], 0.0), (0.0, p["beta"])),
    "mul": lambda p: ((p["alpha"], 0.0), (p["alpha"], p["beta"])),
    "int": lambda p: ((p["alpha"], 0.0), (p["gamma"], p["beta"])),
    "lin": lambda p: ((p["alpha"], p["beta"]), (0.0, p["beta"])),
}
OF_BASE = {
    **dict.fromkeys(("add", "mul", "lin"), ("floor", "A", "B", "alpha", "beta")),
    "int": ("floor", "A", "B", "alpha", "beta", "gamma"),
    "kap": ("floor", "A", "alpha", "beta", "ratio", "c"),
    "kap1": ("A", "alpha", "beta", "ratio", "c"),
}
OF_REPETITION = {"none": (), "exp": ("R",), "harm": ("R",), "harmn": ("R", "r")}
#: From 0 to 1 in the logarithm of load to the power k: Hill's (logistic), Weibull's and Gompertz's curve.
RISES: dict[str, Callable[[Tensor], Tensor]] = {
    "hill": torch.sigmoid,
    "weib": lambda z: -torch.expm1(-torch.exp(z)),
    "gomp": lambda z: torch.exp(-torch.exp(-z)),
}
#: Exponents of model size N, unique images U and images seen T in the load.
LOADS: dict[str, Callable[[Values], Exponents]] = {
    "one": lambda p: (1.0, -2.0, 1.0),
    "oneq": lambda p: (1.0, -1 - p["q"], p["q"]),
    "tied": lambda p: (1.0, -p["q"], p["q"]),
    "nU": lambda p: (1.0, -p["q"], 1.0),
    "pre": lambda p: (1.0, -1.0, p["q"]),
    "free": lambda p: (1.0, -p["s"], p["q"]),
}
OF_LOAD = {"": (), "one": (), **dict.fromkeys(("oneq", "tied", "nU", "pre"), ("q",)), "free": ("q", "s")}


class Form(ScalingLaw):
    """A law by its name, ``base/repetition/rise-load``, such as ``add/harm/hill-one``: the package's ``repetition``."""

    formula, source, huber = "docs/laws.md", "docs/laws.md", HUBER
    variables = (
        Variable("encoder_params", "parameters"),
        Variable("unique_images", "images"),
        Variable("images_seen", "images"),
    )
    together = frozenset({"unique_images", "images_seen"})

    def __init__(self, name: str) -> None:
        self.base, self.repetition, rise = name.split("/")
        rise, _, self.load = rise.partition("-")
        self.capped, self.shape = rise.endswith("cap"), rise.removesuffix("cap")
        of_rise = {"none": (), "pow": ("rise", "k")}.get(self.shape, ("rise", "memory", "k"))
        named = (*OF_BASE[self.base], *OF_REPETITION[self.repetition], *of_rise, *OF_LOAD[self.load])
        self.names = (*(one for one in LINEAR if one in named), *(one for one in named if one not in LINEAR))
        self.linear = sum(one in LINEAR for one in named)
        # The class variables of a law, here of one that is made: names of instances hide those of the class.
        for key, value in {"name": name, "parameters": tuple(PARAMETERS[one] for one in self.names)}.items():
            setattr(self, key, value)

    def predict(self, parameters: Numbers, variables: Variables) -> Numbers:
        """See ``ScalingLaw``."""
        columns = torch.as_tensor(np.ascontiguousarray(parameters.T))[:, :, None]
        with torch.no_grad():
            return np.asarray(self._value(columns, variables).numpy())

    def slopes(self, parameters: Array, variables: Variables) -> tuple[Array, Array]:
        """See ``ScalingLaw``; each value has leaves of its own, so that one pass backwards gives all slopes."""
        rows = len(variables["encoder_params"])
        columns = torch.as_tensor(np.ascontiguousarray(parameters.T))[:, :, None]
        leaves = columns.repeat(1, 1, rows).requires_grad_()
        value = self._value(leaves, variables)
        (slopes,) = torch.autograd.grad(value.sum(), leaves)
        searched = np.where([one.log for one in self.parameters], parameters, 1.0).T[:, :, None]
        found = value.detach().numpy()
        return found, slopes.numpy() * searched / found

    def starts(self, variables: Variables, y: Array) -> Array:
        """See ``ScalingLaw``: the best of many draws, after solving for what the law is linear in."""
        random = np.random.default_rng(0)
        p: dict[str, Tensor] = {}
        for name in (one for one in self.names[self.linear :] if one != "memory"):
            low, high = DRAWN[name]
            where = random.random((DRAWS, 1))
            drawn = low * (high / low) ** where if PARAMETERS[name].log else low + (high - low) * where
            p[name] = torch.as_tensor(drawn)
        if "memory" in self.names:
            load = torch.sort(self._load(p, variables).expand(DRAWS, -1), dim=1).values
            middle = torch.as_tensor(random.integers(int(0.4 * len(y)), len(y), (DRAWS, 1)))
            p["memory"] = torch.exp(load.gather(1, middle) + torch.as_tensor(random.uniform(-0.5, 1.0, (DRAWS, 1))))
        basis = self._basis(p, variables).numpy()
        coefficients = project(basis, y, 1e-3)
        error = np.sum((np.einsum("snl,sl->sn", basis, coefficients) - y) ** 2, axis=1)
        best = np.argsort(np.where(np.isfinite(error), error, np.inf), kind="stable")[:STARTS]
        return np.hstack([coefficients[best], *(p[one].numpy()[best] for one in self.names[self.linear :])])

    def rescaled(self, parameters: Array, factors: Mapping[str, float]) -> Array:
        """See ``ScalingLaw``."""
        model, images = factors["encoder_params"], factors["images_seen"]
        found = parameters.copy()
        old = {name: torch.as_tensor(parameters[:, i].copy()) for i, name in enumerate(self.names)}
        new = {name: found[:, i] for i, name in enumerate(self.names)}
        if self.base in BASES:
            for name, (of_model, of_data) in zip("AB", BASES[self.base](old), strict=True):
                new[name] *= model ** np.asarray(of_model) * images ** np.asarray(of_data)
        else:
            new["A"] *= model ** old["alpha"].numpy()
            new["ratio"] *= images ** old["beta"].numpy() / model ** old["alpha"].numpy()
        if "r" in new:
            new["R"] *= model ** -old["r"].numpy()
        if self.load:
            exponents = [np.asarray(one) for one in LOADS[self.load](old)]
            load = model ** exponents[0] * images ** (exponents[1] + exponents[2])
            if "memory" in new:
                new["memory"] *= load
            else:
                new["rise"] *= load ** -old["k"].numpy()
        return found

    def _value(self, columns: Tensor, variables: Variables) -> Tensor:
        """The law, ``(R, N)``, of parameters ``(P, R, 1)`` or ``(P, R, N)``."""
        basis = self._basis(dict(zip(self.names, columns, strict=True)), variables)
        return (basis * torch.movedim(columns[: self.linear], 0, -1)).sum(dim=-1)

    def _basis(self, p: Values, variables: Variables) -> Tensor:
        """What floor, A, B and rise multiply, as far as the form has them, ``(R, N, L)``."""
        model, unique, seen = _logarithms(variables)
        data = self._data(p, model, unique, seen)
        if self.base in BASES:
            terms = [torch.exp(-(of_model * model + of_data * data)) for of_model, of_data in BASES[self.base](p)]
        else:
            terms = [_kaplan(p, model, data)]
        if "floor" in self.names:
            terms = [torch.ones_like(terms[0]), *terms]
        if self.load:
            load = p["k"] * (self._load(p, variables) - (torch.log(p["memory"]) if "memory" in p else 0.0))
            risen = torch.exp(load) if self.shape == "pow" else RISES[self.shape](load.clamp(-300, 300))
            terms = [*([one * (1 - risen) for one in terms] if self.capped else terms), risen]
        return torch.stack(torch.broadcast_tensors(*terms), dim=-1)

    def _data(self, p: Values, model: Tensor, unique: Tensor, seen: Tensor) -> Tensor:
        """Logarithm of the images that the images seen are worth."""
        if self.repetition == "none":
            return seen
        if self.repetition == "exp":
            epochs = torch.exp(seen - unique)
            repeated = (epochs - 1).clamp(min=0)
            return unique + torch.log(epochs.clamp(max=1) + p["R"] * (1 - torch.exp(-repeated / p["R"])))
        worth = p["R"] * torch.exp(p["r"] * model) if self.repetition == "harmn" else p["R"]
        return -torch.log(torch.exp(-seen) + torch.exp(-unique) / worth)

    def _load(self, p: Values, variables: Variables) -> Tensor:
        """Logarithm of the load."""
        of_model, of_unique, of_seen = LOADS[self.load](p)
        model, unique, seen = _logarithms(variables)
        return of_model * model + of_unique * unique + of_seen * seen


def _kaplan(p: Values, model: Tensor, data: Tensor) -> Tensor:
    """``(N^(-alpha/c) + (ratio * D^-beta)^(1/c))^c``: a sum at c = 1 (Kaplan et al. 2020, equation 1.5)."""
    sides = (-p["alpha"] * model, torch.log(p["ratio"]) - p["beta"] * data)
    return torch.exp(p["c"] * torch.logaddexp(sides[0] / p["c"], sides[1] / p["c"]))


def _logarithms(variables: Variables) -> tuple[Tensor, Tensor, Tensor]:
    model, unique, seen = (
        torch.log(torch.as_tensor(variables[name])) for name in ("encoder_params", "unique_images", "images_seen")
    )
    return model, unique, seen


def outcomes(name: str, rows: Observations) -> dict[str, Any]:
    """Fit a form and ask it for what it was not fitted to: a row of the table."""
    law = with_covariates(Form(name), ["shifted"])
    model, unique, seen = (rows.variables[one] for one in ("encoder_params", "unique_images", "images_seen"))
    small, longest = model < 2e8, seen == seen.max()

    def errors(fitted: Any, asked: Any) -> Array:
        ahead = rows.only(asked)
        fit = fit_law(law, rows.only(fitted), {"bootstrap": 0})
        return np.asarray(ahead.metric - fit.predict(ahead.variables).mean)

    def held_out(asked: Any, among: Any) -> float:
        return rmse([errors(among & ~asked, among & asked)])

    every = np.ones(len(rows), dtype=bool)
    cells = [(model == n) & (unique == u) for n, u in sorted(set(zip(model[small], unique[small], strict=True)))]
    large = rows.only(small & (model > 1e8))
    equal = [rmse([large.metric - one]) for one in equal_optima(law, rows.only(model < 1e8), large.variables)]
    scores = {
        "large_500k": held_out((model > 1e8) & longest, small),
        "base_large_500k": held_out((model > 5e7) & longest, small),
        "all_large": float(np.median(equal)),
        "cells_left_out": rmse([errors(small & ~cell, cell) for cell in cells]),
    }
    return {
        "form": name,
        "parameters": len(law.parameters),
        "r2_small": fit_law(law, rows.only(small), {"bootstrap": 0}).r2,
        **scores,
        "score": geometric_mean(scores.values()),
        "r2_63": fit_law(law, rows, {"bootstrap": 0}).r2,
        "giant": held_out(model > 1e9, every),
        "huge_giant_500k": held_out((model > 5e8) & longest, every),
        "all_large_least": min(equal),
        "all_large_most": max(equal),
    }


def equal_optima(law: ScalingLaw, rows: Observations, ahead: Variables) -> Array:
    """What every optimum that is as good as the best forecasts, ``(optima, N)``."""
    at = scaled(law, rows)
    found = solve(law, at.variables, at.log_y, law.starts(at.variables, np.exp(at.log_y)), delta=HUBER, steps=300)
    equal = found.loss <= np.nanmin(found.loss) * (1 + EQUAL)
    return np.asarray(law.predict(at.back(law, found.parameters[equal]), ahead))


def rmse(errors: Iterable[Array]) -> float:
    return float(np.sqrt(np.mean(np.concatenate(list(errors)) ** 2)))


def geometric_mean(values: Iterable[float]) -> float:
    return float(np.exp(np.mean(np.log(list(values)))))


def determined(row: Mapping[str, Any]) -> float:
    """The score without 'all_large', which the rows do not determine."""
    return geometric_mean(float(row[one]) for one in ("large_500k", "base_large_500k", "cells_left_out"))


def chosen(table: Sequence[Mapping[str, Any]], score: Callable[[Mapping[str, Any]], float]) -> str:
    """The rule: the lowest score, and among those within 5 % of it the greatest R2 of the 42 runs."""
    lowest = min(score(row) for row in table)
    return str(max((row for row in table if score(row) <= 1.05 * lowest), key=lambda row: row["r2_small"])["form"])


def one(task: tuple[str, Path]) -> dict[str, Any]:
    torch.set_num_threads(1)
    return outcomes(task[0], observe(task[1], read_map(MAP)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="xie2023_simmim_swinv2_data_scaling.csv")
    parser.add_argument("--form", action="append", help="such as add/harm/hill-one; every form of --against by default")
    parser.add_argument(
        "--against", type=Path, default=FORMS, help="a table of this script, to compare the scores with"
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with options.against.open(newline="") as file:
        against = {row["form"]: row for row in csv.DictReader(file)}
    names = options.form or list(against)
    begun, found = time.monotonic(), []
    with ProcessPoolExecutor(options.processes) as pool:
        for row in pool.map(one, [(name, options.table) for name in names]):
            found.append(row)
            print(f"{len(found)} of {len(names)}, {time.monotonic() - begun:.0f} s: {row['form']}", flush=True)
    found.sort(key=lambda row: row["score"])
    show(found, against)
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(found[0])
            writer.writerows([[f"{x:.5f}" if isinstance(x, float) else x for x in row.values()] for row in found])
    if options.json:
        rows = [
            {
                "benchmark": "forms",
                "setting": f"{row['form']} {column}",
                "implementation": "mimcore",
                "value": value,
                "unit": "R2" if column.startswith("r2") else "RMSE of the loss",
            }
            for row in found
            for column, value in row.items()
            if isinstance(value, float)
        ]
        options.json.write_text(json.dumps(rows, indent=1))


def show(found: Sequence[Mapping[str, Any]], against: Mapping[str, Mapping[str, str]]) -> None:
    table = Table(
        "form",
        "parameters",
        "R2, 42",
        "score",
        "all_large",
        "R2, 63",
        "giant",
        "500K",
        "score / stored",
        "without all_large",
    )
    ratios: dict[str, list[float]] = {"score": [], "score without all_large": []}
    for row in found:
        stored = against.get(row["form"])
        told = ["", ""]
        if stored:
            pair = row["score"] / float(stored["score"]), determined(row) / determined(stored)
            for values, ratio in zip(ratios.values(), pair, strict=True):
                values.append(ratio)
            told = [f"{ratio:.3f}" for ratio in pair]
        table.add_row(
            row["form"],
            str(row["parameters"]),
            f"{row['r2_small']:.4f}",
            f"{row['score']:.5f}",
            f"{row['all_large_least']:.5f} to {row['all_large_most']:.5f}",
            f"{row['r2_63']:.4f}",
            f"{row['giant']:.5f}",
            f"{row['huge_giant_500k']:.5f}",
            *told,
        )
    Console(width=170).print(table)
    for what, values in ratios.items():
        if values:
            size = np.abs(np.log(values))
            print(
                f"{what} / stored: median {np.median(values):.4f}, {np.min(values):.3f} to {np.max(values):.3f}; of {len(values)} forms "
                f"{np.sum(size < np.log(1.01))} within 1 %, {np.sum(size < np.log(1.05))} within 5 %"
            )
    print(f"chosen by the rule: {chosen(found, lambda row: float(row['score']))}")
    print(f"chosen by the rule without all_large: {chosen(found, determined)}")


if __name__ == "__main__":
    main()

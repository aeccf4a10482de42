"""How often intervals cover the truth, on tables made of known laws.

python benchmarks/coverage.py                    # every law, 200 tables each
python benchmarks/coverage.py --law chinchilla   # one

Each table has one run for each point of a grid (or two, for laws in one variable), with noise of 0.5 % by a fixed seed. Counted
is how often the 90 % interval holds the law's true value at four times the largest scale, and each parameter's; a parameter is
pinned down by such data where its interval spans less than a factor of 5 in most tables. No timing.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "scaling"))
from known_laws import KNOWN, beyond, law_of, runs

from mimcore.scaling.estimate import fit_law

NOISE = 0.005


def coverage(name: str, repeats: int, bootstrap: int, resample: str) -> dict[str, tuple[float, bool]]:
    law, ahead = law_of(name), beyond(name)
    true = law.predict(np.array([KNOWN[name].parameters]), ahead)[0, 0]
    hits = dict.fromkeys(["forecast", *(p.name for p in law.parameters)], 0)
    pinned = dict.fromkeys(hits, 0)
    for seed in range(repeats):
        fit = fit_law(law, runs(name, NOISE, seed), {"bootstrap": bootstrap, "seed": seed, "resample": resample})
        forecast = fit.predict(ahead)
        hits["forecast"] += bool(forecast.low[0] <= true <= forecast.high[0])
        for (key, (_, low, high)), value in zip(fit.intervals().items(), KNOWN[name].parameters, strict=True):
            hits[key] += bool(low <= value <= high)
            pinned[key] += fit.pinned_down()[key]
    pinned["forecast"] = repeats
    return {key: (count / repeats, pinned[key] > repeats / 2) for key, count in hits.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--law", action="append", choices=sorted(KNOWN))
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--bootstrap", type=int, default=400)
    parser.add_argument("--resample", choices=["residuals", "runs"], default="residuals")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    table = Table("law", "what", "coverage of 90 %", "pinned down by such data")
    for name in options.law or sorted(KNOWN):
        found = coverage(name, options.repeats, options.bootstrap, options.resample)
        for key, (share, pinned) in found.items():
            rows.append(
                {
                    "benchmark": "coverage",
                    "setting": f"{name} {key}",
                    "implementation": "mimcore",
                    "value": share,
                    "unit": "share",
                }
            )
            table.add_row(name, key, f"{share:.3f}", "yes" if pinned else "no")
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

"""Bootstrap refits of the law of repetition on the 63 runs of Xie et al. 2023: ours beside loops over SciPy.

python benchmarks/fit.py xie2023_simmim_swinv2_data_scaling.csv

All start each refit from the same optimum, fit the same redrawn values, and minimise the same sum of Huber's losses of log
residuals: SciPy's ``least_squares`` (the method behind ``curve_fit``) with the law's closed-form slopes and with differences, and
L-BFGS-B with slopes. Being slow, these fit the first --peer-refits only, and rates are compared. 'Ours no worse' is the share of refits
whose loss SciPy does not undercut by more than a thousandth.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.optimize import least_squares, minimize

from mimcore import registry
from mimcore.scaling.covariate import with_covariates
from mimcore.scaling.ensemble import noise
from mimcore.scaling.estimate import fit_law, scaled
from mimcore.scaling.mapping import observe, read_map
from mimcore.scaling.solve import huber_loss, solve

MAP = Path(__file__).resolve().parents[1] / "docs" / "examples" / "xie2023.map.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--refits", type=int, default=1000)
    parser.add_argument("--peer-refits", type=int, default=100)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    mapping = read_map(MAP)
    law = with_covariates(registry.load("law", "repetition").Law(), mapping.covariates)
    rows = observe(options.table, mapping)
    fit = fit_law(law, rows, {"bootstrap": 0})
    at = scaled(law, rows)
    optimum = at.into(law, fit.parameters[None])
    value, slopes = law.slopes(optimum, at.variables)
    deviations = noise(fit.residuals, slopes[:, 0].T, rows.cells(law), options.refits, np.random.default_rng(0))
    drawn = np.log(value[0]) + deviations
    is_log = np.array([p.log for p in law.parameters])
    limits = np.array([(np.log(p.low), np.log(p.high)) if p.log else (p.low, p.high) for p in law.parameters]).T
    start = np.where(is_log, np.log(np.where(is_log, optimum[0], 1)), optimum[0])

    def natural(u: Any) -> Any:
        return np.where(is_log, np.exp(np.where(is_log, u, 0)), u)[None]

    def residuals(u: Any, log_y: Any) -> Any:
        return log_y - np.log(law.predict(natural(u), at.variables)[0])

    def jacobian(u: Any, log_y: Any) -> Any:
        return -law.slopes(natural(u), at.variables)[1][:, 0].T

    def trf(jac: Any) -> Callable[[Any], float]:
        def one(log_y: Any) -> float:
            found = least_squares(
                residuals,
                start,
                jac,
                limits,
                loss="huber",
                f_scale=fit.delta,
                args=(log_y,),
                xtol=1e-10,
                ftol=1e-10,
                gtol=1e-12,
            )
            return float(found.cost)

        return one

    def lbfgs(log_y: Any) -> float:
        def objective(u: Any) -> tuple[float, Any]:
            values, slope = law.slopes(natural(u), at.variables)
            rest = log_y - np.log(np.maximum(values[0], 1e-9))
            pull = np.clip(rest, -fit.delta, fit.delta)
            # In units of 1e-6, since its tests of convergence are absolute.
            return 1e6 * float(huber_loss(rest[None], fit.delta)[0]), -1e6 * slope[:, 0] @ pull

        found = minimize(
            objective, start, jac=True, method="L-BFGS-B", bounds=limits.T, options={"maxiter": 2000, "ftol": 1e-12}
        )
        return float(found.fun) / 1e6

    peers: dict[str, Callable[[Any], float]] = {
        "scipy least_squares, differences": trf("2-point"),
        "scipy least_squares, slopes": trf(jacobian),
        "scipy L-BFGS-B, slopes": lbfgs,
    }
    starts = np.repeat(optimum, options.refits, axis=0)
    solve(law, at.variables, drawn[:10], starts[:10], delta=fit.delta)
    begun = time.perf_counter()
    ours = solve(law, at.variables, drawn, starts, delta=fit.delta)
    own = time.perf_counter() - begun
    own_losses = ours.loss[: options.peer_refits]
    table = Table("implementation", "refits/s", "ours is faster by", "ours no worse", "median excess of its loss")
    table.add_row("mimcore, one batch", f"{options.refits / own:,.0f}", "1", "", "")
    found = [
        {
            "benchmark": "fit",
            "setting": "refits",
            "implementation": "mimcore",
            "value": options.refits / own,
            "unit": "refits/s",
        }
    ]
    for name, peer in peers.items():
        begun = time.perf_counter()
        losses = np.array([peer(log_y) for log_y in drawn[: options.peer_refits]])
        took = time.perf_counter() - begun
        faster = options.refits / own * took / len(losses)
        same = float(np.mean(~(losses < own_losses * (1 - 1e-3))))
        excess = float(np.nanmedian(losses / own_losses - 1))
        table.add_row(
            name,
            f"{len(losses) / took:,.0f}",
            f"{faster:.0f}",
            f"{same:.3f}",
            f"{excess:.1e}",
        )
        found += [
            {
                "benchmark": "fit",
                "setting": "refits",
                "implementation": name,
                "value": len(losses) / took,
                "unit": "refits/s",
            },
            {"benchmark": "fit", "setting": "ours no worse", "implementation": name, "value": same, "unit": "share"},
        ]
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

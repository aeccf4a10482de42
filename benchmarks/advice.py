"""Which order of runs forecasts large models soonest: the advised, a random one, or small before large?

The 63 runs of Xie et al. 2023 are replayed: a start is drawn among the cheaper half of the runs without the 'giant' model, runs
are added in each order until the grid is whole, and after each batch the law is fitted and asked for the nine giant runs. The
advised order is told what every run costs and nothing of its outcome before it is made.

python benchmarks/advice.py TABLE --starts 20 --json FILE --png FILE
"""

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from mimcore import registry
from mimcore.scaling.advise import advise
from mimcore.scaling.covariate import with_covariates
from mimcore.scaling.estimate import fit_law
from mimcore.scaling.mapping import observe, read_map

MAP = Path(__file__).resolve().parents[1] / "docs" / "examples" / "xie2023.map.yaml"
#: Widths of SwinV2-S, B, L, H and g (Liu et al. 2022, section 4.1; Xie et al. 2023, table 1), all of depth 2, 2, 18, 2.
WIDTHS = {49: 96, 87: 128, 195: 192, 655: 352, 1060: 448}
#: Input of SimMIM's pretraining, pixels (Xie et al. 2022, section 4.1), with a window of 12.
SIDE, WINDOW = 192, 12
#: Runs at the start, added at once, and refits that the advice is drawn from.
START, STEP, REFITS = 14, 2, 200
ORDERS = ("advised", "random", "small first")


def flops_per_image(width: int) -> float:
    """Forward and backward of the encoder, all patches: SimMIM encodes mask tokens too, and predicts with one linear layer."""
    with torch.device("meta"):
        model = timm.models.SwinTransformerV2(
            img_size=SIDE,
            window_size=WINDOW,
            embed_dim=width,
            depths=(2, 2, 18, 2),
            num_heads=(width // 32,) * 4,
            num_classes=0,
        )
        images = torch.empty(1, 3, SIDE, SIDE)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.forward_features(images)
    return 3.0 * counter.get_total_flops()


@dataclass(frozen=True)
class Replay:
    table: Path
    law: str
    costs: np.ndarray

    def __call__(self, task: tuple[int, str]) -> list[tuple[float, float]]:
        """FLOPs spent and the error on the giants after each batch, for one start and order."""
        seed, order = task
        meaning = read_map(MAP)
        rows = observe(self.table, meaning)
        law = registry.load("law", self.law).Law()
        giant = rows.variables["encoder_params"] > 1e9
        grid, giants, costs = rows.only(~giant), rows.only(giant), self.costs
        random = np.random.default_rng(seed)
        made = list(random.choice(np.argsort(costs, kind="stable")[: len(costs) // 2], START, replace=False))
        shuffled = list(random.permutation(len(costs)))
        found = []
        while True:
            here = grid.only(np.array(made))
            told = [name for name in meaning.covariates if np.ptp(here.variables[name])]
            fit = fit_law(with_covariates(law, told), here, {"bootstrap": REFITS if order == "advised" else 0})
            found.append((float(costs[made].sum()), fit.rmse_on(giants)))
            left = np.array([run for run in range(len(costs)) if run not in made], dtype=int)
            if not len(left):
                return found
            if order == "advised":
                candidates = {name: values[left] for name, values in grid.variables.items()}
                advised = advise(fit, candidates, costs[left], giants.variables, count=STEP, repeat=False)
                chosen = [int(left[one.index]) for one in advised]
                chosen = chosen or [int(left[np.argmin(costs[left])])]
            elif order == "random":
                chosen = [run for run in shuffled if run not in made][:STEP]
            else:
                chosen = sorted(left, key=lambda run: costs[run])[:STEP]
            made += chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="xie2023_simmim_swinv2_data_scaling.csv")
    parser.add_argument("--law", default="repetition")
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    options = parser.parse_args()
    rows = observe(options.table, read_map(MAP))
    params = rows.variables["encoder_params"]
    per_image = {size: flops_per_image(width) for size, width in WIDTHS.items()}
    costs = np.array([per_image[round(n / 1e6)] for n in params]) * rows.variables["images_seen"]
    replay = Replay(options.table, options.law, costs[params < 1e9])
    grid = np.linspace(0, 1, 201) * replay.costs.sum()
    curves: dict[str, np.ndarray] = {}
    with ProcessPoolExecutor(options.processes) as pool:
        for order in ORDERS:
            begun = time.monotonic()
            replays = list(pool.map(replay, [(seed, order) for seed in range(options.starts)]))
            curves[order] = np.nanmedian([along(one, grid) for one in replays], axis=0)
            print(f"{order}: {options.starts} starts, {time.monotonic() - begun:.0f} s", flush=True)
    whole = float(curves["random"][-1])
    print(f"error of the whole grid on the giants: {whole:.5f}")
    table = []
    for margin in (1.0, 1.1, 1.25, 1.5):
        reached = {order: stays(curve, whole * margin) for order, curve in curves.items()}
        best = min(reached["random"], reached["small first"])
        print(
            f"within {margin:g} times it, for good, after this share of the grid's FLOPs: "
            + ", ".join(f"{order} {100 * share:.1f} %" for order, share in reached.items())
            + f"; advised / best of both {reached['advised'] / best:.2f}"
        )
        setting = f"error of the whole grid times {margin:g}"
        table += [
            dict(
                zip(
                    ("benchmark", "setting", "implementation", "value", "unit"),
                    ("advice", setting, order, share, "share of the grid's FLOPs"),
                    strict=True,
                )
            )
            for order, share in reached.items()
        ]
    if options.json:
        options.json.write_text(json.dumps(table, indent=1))
    if options.png:
        draw(curves, grid, whole, options.png, options.starts)


def along(replay: list[tuple[float, float]], grid: np.ndarray) -> np.ndarray:
    """The error once so much was spent; NaN before the start."""
    spent, errors = (np.array(part) for part in zip(*replay, strict=True))
    index = np.searchsorted(spent, grid * (1 + 1e-9), side="right") - 1
    return np.where(index < 0, np.nan, errors[index])


def stays(curve: np.ndarray, limit: float) -> float:
    """Share of the FLOPs from which on the curve keeps to the limit."""
    above = np.flatnonzero(~(curve <= limit * (1 + 1e-9)))
    return 0.0 if not len(above) else min(1.0, (above[-1] + 1) / (len(curve) - 1))


def draw(curves: dict[str, np.ndarray], grid: np.ndarray, whole: float, path: Path, starts: int) -> None:
    import altair as alt

    from mimcore.scaling.drawing import FONT, INK, MODEL_COLOURS

    points = [
        {"order": order, "spent": 100 * x / grid[-1], "error": y}
        for order, curve in curves.items()
        for x, y in zip(grid, curve, strict=True)
        if np.isfinite(y)
    ]
    line = (
        alt.Chart(alt.Data(values=points))
        .mark_line(interpolate="step-after", strokeWidth=2.2)
        .encode(
            x=alt.X("spent:Q", title="FLOPs spent, % of the whole grid's", scale=alt.Scale(domain=[0, 100])),
            y=alt.Y(
                "error:Q", title="forecast error (RMSE) on the nine giant runs", scale=alt.Scale(type="log", nice=False)
            ),
            color=alt.Color(
                "order:N",
                title=None,
                scale=alt.Scale(domain=list(ORDERS), range=list(MODEL_COLOURS[:3])),
                legend=alt.Legend(orient="top"),
            ),
        )
    )
    rule = alt.Chart(alt.Data(values=[{"error": whole, "text": "the whole grid"}]))
    layers = (
        line
        + rule.mark_rule(strokeDash=[4, 4], color=INK).encode(y="error:Q")
        + rule.mark_text(align="left", dx=4, dy=-7, x=0, color=INK).encode(y="error:Q", text="text:N")
    )
    title = f"Xie et al. 2023, replayed run by run: medians over {starts} starts"
    layers.properties(width=560, height=340, title=title).configure(font=FONT, background="white").save(
        path, scale_factor=2
    )


if __name__ == "__main__":
    main()

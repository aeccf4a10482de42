"""Draw few-shot accuracy over the number of shots, and error over the severity of corruptions, of a study that has run.

python benchmarks/few_shots_and_corruptions.py [--results artifacts/results/results.parquet] [--out docs/images/cifar10-language.png]

Bars are one standard error: over draws of the images, and over test images. A row of the table is a point.
"""

import argparse
from pathlib import Path

import altair as alt
import polars as pl

SIDES = {
    "fewshot": (r"^top1_(\d+)$", "images of each class", "top-1 accuracy"),
    "robustness": (r"^severity_(\d+)$", "severity of corruptions", "error"),
}


def panel(rows: pl.DataFrame, task: str) -> alt.LayerChart:
    pattern, across, up = SIDES[task]
    points = (
        rows.filter((pl.col("task") == task) & pl.col("metric").str.contains(pattern))
        .with_columns(
            x=pl.col("metric").str.extract(pattern).cast(pl.Int64),
            who=pl.when(pl.col("kind") == "run").then("objective").otherwise("kind"),
            low=pl.col("value") - pl.col("standard_error"),
            high=pl.col("value") + pl.col("standard_error"),
        )
        .select("x", "who", "value", "low", "high")
    )
    base = alt.Chart(alt.Data(values=points.to_dicts())).encode(
        x=alt.X("x:Q", title=across, axis=alt.Axis(values=sorted(set(points["x"])), format="d")),
        color=alt.Color("who:N", title=None),
    )
    y = alt.Y("value:Q", title=up, scale=alt.Scale(zero=False))
    bars = base.mark_rule().encode(y=alt.Y("low:Q", title=up), y2="high:Q")
    return alt.layer(base.mark_line(point=True).encode(y=y), bars).properties(width=300, height=240)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("artifacts/results/results.parquet"))
    parser.add_argument("--out", type=Path, default=Path("docs/images/cifar10-language.png"))
    options = parser.parse_args()
    rows = pl.read_parquet(options.results)
    alt.hconcat(*(panel(rows, task) for task in SIDES)).save(str(options.out), scale_factor=2)


if __name__ == "__main__":
    main()

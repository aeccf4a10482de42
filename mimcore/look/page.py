"""The page: pictures of the subset and of its pool, and every distribution of one over the other."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from altair.utils.schemapi import debug_mode
from markupsafe import Markup

from mimcore import artifacts
from mimcore.look import charts
from mimcore.look.facts import ALWAYS, Copies, Difference, Facts, distance, gather, near_copies, word_differences
from mimcore.look.pictures import Picture, pictures
from mimcore.scaling.drawing import inline
from mimcore.scaling.numbers import count, number

#: Bits in which near copies may differ: nearly all copies do by no more (docs/sampling.md).
NEAR = 4
#: Pictures of the subset, of the pool, at each end of a score; pairs of near copies; words; classes; scores with pictures.
SHOWN, OF_POOL, EXTREMES, PAIRS, WORDS, CLASSES, SCORES = 60, 24, 7, 12, 12, 30, 8

_TEMPLATE = "page.html.j2"
_UNITS = {
    "width": "width, pixels",
    "height": "height, pixels",
    "aspect": "width / height",
    "bytes": "bytes of the image",
}

#: Told of (what is being done, done, in all).
Progress = Callable[[str, int, int], None]


def look(
    title: str,
    subset: Path,
    index: Path,
    pool: Mapping[str, Any],
    output: Path,
    root: Path,
    progress: Progress = lambda what, done, total: None,
) -> Path:
    """Write ``index.html``, which needs no network, no script and no other file.

    Args:
        title: of the subset, for the heading.
        subset: ``artifacts/subsets/<subset>-<seed>``.
        index: ``artifacts/index/<pool>``.
        pool: ``pools.<pool>`` of ``params.yaml``.
        output: the folder to write.
        root: the folder that relative pool paths count from.
        progress: told of each part.

    Returns:
        the page.

    Raises:
        UserError: the subset or the index is missing, an image has changed, or the disk is full.
    """
    card, about = (artifacts.read_json(folder / "card.json") for folder in (subset, index))
    manifest, rows = subset / "manifest.parquet", index / "index.parquet"
    progress("counting", 0, 1)
    ours, theirs = gather(manifest, int(card["images"])), gather(rows, int(about["train"]))
    differences = {name: distance(ours.numbers[name], theirs.numbers[name]) for name in _shared(ours, theirs)}
    overlap = card.get("overlap")
    copies = near_copies(manifest, (overlap or {}).get("column", "phash"), ours.places, NEAR, PAIRS)
    words = word_differences(ours, theirs) if ours.captions and theirs.captions else []

    def shown(file: Path, places: Sequence[int], notes: Sequence[str] | None = None) -> list[Picture]:
        return pictures(file, places, notes or [""] * len(places), pool, root)

    progress("pictures", 0, 1)
    random = np.random.default_rng(0).permutation(theirs.places)[:OF_POOL]
    sheets = {
        "subset": shown(manifest, ours.places[:SHOWN].tolist()),
        "pool": shown(rows, random.tolist()),
    }
    extremes = [_extremes(name, ours, manifest, shown) for name in _scores(differences)[:SCORES]]
    progress("the page", 0, 1)
    with artifacts.directory(output) as folder:
        with debug_mode(False):
            figures = _figures(ours, theirs, differences, about.get("classes"))
        text = (
            _environment()
            .get_template(_TEMPLATE)
            .render(
                title=title,
                scope=_scope(card, ours, theirs),
                answers=_answers(card, ours, theirs, differences, copies),
                sheets=sheets,
                figures=figures,
                keys=[(Markup(drawing), text) for drawing, text in charts.KEYS],
                numbers=_numbers(ours, theirs, differences),
                labels=_labels(ours, theirs, about.get("classes")),
                words=_words(words),
                copies=copies,
                near=NEAR,
                pairs=_pairs(copies, manifest, shown),
                extremes=extremes,
            )
        )
        (folder / "index.html").write_text(text, encoding="utf-8")
    return output / "index.html"


def _environment() -> jinja2.Environment:
    here = Path(__file__).parent
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([here, here.parent / "scaling"]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def _shared(ours: Facts, theirs: Facts) -> list[str]:
    """Numbers that both have, and that are not the same everywhere."""
    found = []
    for name, values in theirs.numbers.items():
        there = values[~np.isnan(values)]
        here = ours.numbers.get(name, np.empty(0))
        if len(there) and np.ptp(there) > 0 and not np.isnan(here).all():
            found.append(name)
    return found


def _scores(differences: Mapping[str, float]) -> list[str]:
    """Columns that the pool brings, the most different first."""
    names = [name for name in differences if name not in ALWAYS]
    return sorted(names, key=lambda name: -differences[name])


def _scope(card: Mapping[str, Any], ours: Facts, theirs: Facts) -> str:
    """What was drawn from what, and of what this page is a sample."""
    part = ours.total / max(theirs.total, 1)
    drawn = ", then ".join([*(step["strategy"] for step in card.get("steps", [])), card["strategy"]])
    told = (
        f"{count(ours.total)} images, {part:.1%} of the {count(theirs.total)} training images of the pool '{card['pool']}';"
        f" drawn by {drawn}, seed {card['seed']}."
    )
    for what, facts in (("pool", theirs), ("subset", ours)):
        if len(facts.places) < facts.total:
            told += f" Of the {what}, a fixed sample of {count(len(facts.places))} rows is looked at."
    return told


def _answers(
    card: Mapping[str, Any], ours: Facts, theirs: Facts, differences: Mapping[str, float], copies: Copies | None
) -> list[str]:
    found = []
    # Kolmogorov's limit for large samples, at one per cent.
    limit = 1.63 / np.sqrt(max(len(ours.places), 1))
    apart = sorted((name for name in differences if differences[name] > limit), key=lambda name: -differences[name])
    if apart:
        told = [
            f"{name} (median {_number(ours.numbers[name])} against {_number(theirs.numbers[name])})"
            for name in apart[:3]
        ]
        more = f", and {len(apart) - 3} more" if len(apart) > 3 else ""
        found.append(f"Unlike the pool, by more than a random draw would be: {', '.join(told)}{more}.")
    else:
        found.append("No number differs from the pool's by more than a random draw's would.")
    if copies is not None:
        near = f"perceptual hashes at most {NEAR} of 64 bits apart"
        some = f"{count(copies.images)} of {count(copies.hashed)} images have" if copies.images else "No image has"
        found.append(f"{some} a near copy in the subset ({near}).")
    overlap = card.get("overlap")
    if overlap:
        what = "were left out" if overlap["excluded"] else "are in it"
        each = ", ".join(f"{count(images)} of {pool}'s" for pool, images in overlap["images"].items())
        found.append(f"Copies of validation images that {what}: {each} (at most {overlap['distance']} bits apart).")
    if ours.captions and ours.captions < len(ours.places):
        found.append(f"{ours.captions / len(ours.places):.1%} of its images have a caption.")
    return found


def _number(values: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    return number(float(np.nanmedian(values)))


def _figures(
    ours: Facts, theirs: Facts, differences: Mapping[str, float], classes: list[str] | None
) -> list[dict[str, Any]]:
    found = []
    size = [name for name in ALWAYS if name in differences]
    for heading, names in (("Sizes", size), ("Other numbers", _scores(differences))):
        panels = [charts.numbers(_UNITS.get(name, name), ours.numbers[name], theirs.numbers[name]) for name in names]
        if panels:
            found.append((heading, panels))
    if ours.captions and theirs.captions:
        lengths = [_expanded(facts.lengths) for facts in (ours, theirs)]
        found.append(("Captions", [charts.numbers("words in a caption", *lengths)]))
    if labels := _labels(ours, theirs, classes):
        here, there = ({row.name: getattr(row, which) for row in labels} for which in ("subset", "pool"))
        found.append(("Labels", [charts.shares("Shares of the labels in the subset and in the pool.", here, there)]))
    return [
        {
            "name": f"figures-{heading.lower().replace(' ', '-')}",
            "title": heading,
            "panels": [
                Markup(inline(panel, f"{heading.lower().replace(' ', '-')}-{i}")) for i, panel in enumerate(panels)
            ],
        }
        for heading, panels in found
    ]


def _expanded(lengths: Mapping[int, int]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.repeat(np.array(list(lengths), float), list(lengths.values()))


def _numbers(ours: Facts, theirs: Facts, differences: Mapping[str, float]) -> list[dict[str, Any]]:
    """A line for each number: median, and from the 5th to the 95th of a hundred parts."""
    found = []
    for name in [*(name for name in ALWAYS if name in differences), *_scores(differences)]:
        line: dict[str, Any] = {"name": _UNITS.get(name, name), "distance": f"{differences[name]:.3f}"}
        for which, values in (("subset", ours.numbers[name]), ("pool", theirs.numbers[name])):
            low, middle, high = np.nanquantile(values, (0.05, 0.5, 0.95))
            line[which] = (number(float(middle)), f"{number(float(low))} to {number(float(high))}")
            line[f"{which}_missing"] = f"{np.isnan(values).mean():.1%}" if np.isnan(values).any() else ""
        found.append(line)
    return found


class _Share(NamedTuple):
    """A class: its label and name, its parts of the subset and of the pool, and its images in the subset."""

    label: int
    name: str
    subset: float
    pool: float
    images: str


def _labels(ours: Facts, theirs: Facts, classes: list[str] | None) -> list[_Share]:
    """Shares of the labels, the most different ones where they are many, in the order of the labels."""
    if not theirs.labels:
        return []
    here, there = ours.labels.total() or 1, theirs.labels.total()
    found = [
        _Share(
            label,
            classes[label] if classes else str(label),
            ours.labels[label] / here,
            theirs.labels[label] / there,
            count(ours.labels[label]),
        )
        for label in theirs.labels
    ]
    apart = sorted(found, key=lambda row: (-abs(row.subset - row.pool), row.label))[:CLASSES]
    return sorted(apart, key=lambda row: row.label)


def _words(differences: Sequence[Difference]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    more = [one for one in differences if one.score > 0][:WORDS]
    less = [one for one in reversed(differences) if one.score < 0][:WORDS]
    return [
        (heading, [(one.word, f"{one.subset:.2%}", f"{one.pool:.2%}") for one in some])
        for heading, some in (("More often in the subset", more), ("Less often in the subset", less))
        if some
    ]


def _pairs(copies: Copies | None, manifest: Path, shown: Callable[..., list[Picture]]) -> list[dict[str, Any]]:
    if copies is None or not copies.pairs:
        return []
    places = [place for pair in copies.pairs for place in (pair.first, pair.second)]
    found = shown(manifest, places)
    bits = ("the same hash", "1 bit apart")
    return [
        {
            "pictures": found[2 * i : 2 * i + 2],
            "note": bits[pair.distance] if pair.distance < 2 else f"{pair.distance} bits apart",
        }
        for i, pair in enumerate(copies.pairs)
    ]


def _extremes(name: str, ours: Facts, manifest: Path, shown: Callable[..., list[Picture]]) -> dict[str, Any]:
    """The images with the lowest and the highest values of a score."""
    values = ours.numbers[name]
    order = np.argsort(values, kind="stable")[: int((~np.isnan(values)).sum())]
    # At most half of them, so that none is at both ends.
    most = min(EXTREMES, max(1, len(order) // 2))
    ends = {"lowest": order[:most], "highest": order[::-1][: min(most, len(order) - most)]}
    return {
        "name": name,
        "ends": {
            end: shown(manifest, ours.places[rows].tolist(), [number(float(values[row])) for row in rows])
            for end, rows in ends.items()
        },
    }

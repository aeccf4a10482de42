"""Verbs that choose images."""

from pathlib import Path
from typing import Annotated

import typer

from mimcore import layout
from mimcore.cli.base import PARAMS, PREPARE, WORK, ExamplesName, Params, SeedName, SubsetName, app
from mimcore.study import Study


@app.command(rich_help_panel=WORK)
def sample(subset: SubsetName, seed: SeedName, params: Params = PARAMS) -> None:
    """Draw a subset of a pool."""
    from mimcore.artifacts import Provenance
    from mimcore.progress import Phases
    from mimcore.sampling.draw import sample as draw

    study = Study.read(params)
    options, pool = study.options("subsets", subset), study.pool_of("subsets", subset)
    output, title = layout.subset(subset, seed), f"sample {subset} {seed}"
    with Provenance(layout.provenance(output), title, options, {"index": pool}), Phases(title, "rows") as passes:
        card = draw(subset, options, seed, study.options("pools", pool), layout.index(pool), output, Path.cwd(), passes)
    print(f"{subset}-{seed}: {card['images']:,} of {pool}'s images.")


@app.command(rich_help_panel=PREPARE)
def export(
    subset: SubsetName,
    seed: SeedName,
    out: Annotated[Path | None, typer.Option(help="Folder to write; exports/SUBSET-SEED by default.")] = None,
    params: Params = PARAMS,
) -> None:
    """Draw a subset of a pool of metadata, and write the list of images to fetch."""
    from mimcore.progress import Phases
    from mimcore.sampling.export import LIST
    from mimcore.sampling.export import export as draw

    study = Study.read(params)
    options, pool = study.options("subsets", subset), study.pool_of("subsets", subset)
    output = out or Path("exports") / f"{subset}-{seed}"
    pool_options, listing = study.options("pools", pool), layout.listing(pool)
    with Phases(f"export {subset} {seed}", "rows") as passes:
        card = draw(subset, options, seed, pool_options, listing, layout.index(pool).parent, output, Path.cwd(), passes)
    print(f"{output / LIST}: {card['images']:,} of {pool}'s {card['pool_images']:,} rows, in the order of the draw.")
    print(f"Fetch them: {card['command']}")
    print(
        "Then draw from what arrived, in the same order: strategy: given, options: {file: {path: "
        f"{output / LIST}, sha256: {card['list_sha256'][:16]}}}, list_column: {pool_options.get('key_column', 'id')},"
        f" column: {pool_options.get('key_column', 'id')}, max_missing_fraction: 0.5}}"
    )


@app.command(rich_help_panel=WORK)
def examples(name: ExamplesName, params: Params = PARAMS) -> None:
    """Choose the images that a task, or the features of probes, train and test on."""
    from mimcore.artifacts import Provenance
    from mimcore.sampling.examples import choose

    study = Study.read(params)
    kind = study.examples_kind(name)
    options, pool = study.options(kind, name), study.pool_of(kind, name)
    needs = study.needs_of(kind, name)
    output = layout.examples(name)
    others = {other: layout.index(other) for other in study.shifted_of(kind, name)}
    with Provenance(layout.provenance(output), f"examples {name}", options, {"index": pool}):
        card = choose(f"{kind}.{name}", options, layout.index(pool), output, needs, others)
    print(f"{name}: {card['train']:,} images to train on, {card['test']:,} to test on.")
    for other, found in card.get("shifted", {}).items():
        print(f"{name}: {found['images']:,} images of {other}, of {len(found['classes'])} classes.")

"""Finished runs of anybody's table beside the study's own: what is read, what is refused, and what they may count for."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pytest
import scaling_study
from scaling_study import Plan

from mimcore.errors import UserError
from mimcore.scaling.collect import collect
from mimcore.scaling.diagnostics import diagnose
from mimcore.scaling.fit import fit
from mimcore.scaling.import_runs import runs_from
from mimcore.scaling.imported import read_imported, rows_of, store
from mimcore.scaling.table import headlines_of, read_results, runs_of

ROOT = Path(__file__).resolve().parents[2]
XIE = ROOT.parent / "shared" / "reference" / "xie2023_simmim_swinv2_data_scaling.csv"
MAPPING = """
rows: status == 'finished'
coordinates:
  objective: {value: mae}
  model: {column: model}
  subset: {column: images}
  schedule: {value: long}
  seed: {column: seed}
variables:
  encoder_params: {column: params_m, scale: 1.0e+6}
  unique_images: {column: images}
  images_seen: {column: epochs, scale: 1000}
metrics:
  pretrain: {val_loss: {column: loss}}
  linear: {top1: {column: accuracy, scale: 0.01, higher_is_better: true}}
"""
ROWS = {
    "status": ["finished", "finished", "failed"],
    "model": ["huge", "huge", "huge"],
    "images": [1024, 4096, 8192],
    "seed": ["s0", "s0", "s0"],
    "params_m": [80.0, 80.0, 80.0],
    "epochs": [64, 64, 64],
    "loss": [0.5, 0.45, None],
    "accuracy": [50.0, 60.5, None],
}


@pytest.fixture
def table(tmp_path):
    (tmp_path / "map.yaml").write_text(MAPPING)
    pyarrow.csv.write_csv(pa.table(ROWS), tmp_path / "theirs.csv")
    return tmp_path / "theirs.csv"


def test_runs_are_read_by_the_mapping(table):
    first, second = runs_from(table, table.parent / "map.yaml")
    assert first["run"] == "mae-huge-1024-long-s0"
    assert (first["encoder_params"], first["unique_images"], first["images_seen"]) == (80_000_000, 1024, 64_000)
    assert first["flops"] is None
    assert [(v["task"], v["metric"], v["value"]) for v in second["values"]] == [
        ("pretrain", "val_loss", 0.45),
        ("linear", "top1", pytest.approx(0.605)),
    ]


def test_a_table_imported_again_takes_its_own_place(table):
    path = table.parent / "imported.json"
    runs = runs_from(table, table.parent / "map.yaml")
    assert store(path, runs) == 0
    once = path.read_bytes()
    assert store(path, runs) == 2
    assert path.read_bytes() == once
    others = [{**one, "file": "other.csv"} for one in runs]
    with pytest.raises(UserError, match=r"is imported from theirs.csv already"):
        store(path, others)
    assert store(path, [{**one, "run": one["run"].replace("s0", "s1")} for one in others]) == 0
    assert len(read_imported(path)) == 4


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("column: params_m", "column: params_n"), "has no column 'params_n', which the mapping names; did you mean 'params_m'"),
        (("rows: status", "row: status"), "row: unknown option; did you mean 'rows'?"),
        (("'finished'", "'done'"), "no row meets the mapping's condition 'rows: status == 'done''"),
        (("status == 'finished'", "images > 0"), "pretrain val_loss of mae-huge-8192-long-s0 is missing; it must be a finite number"),
        (("  seed: {column: seed}\n", ""), "coordinates.seed is missing"),
        (("seed: {column: seed}", "seed: {column: seed, value: s0}"), "give either 'column' or 'value'"),
        (("subset: {column: images}", "subset: {value: all}"), "mae-huge-all-long-s0 is 1024 in one row and 4096 in another"),
        (("images_seen:", "images_sen:"), "variables.images_seen is missing"),
        (("\nmetrics:", "\n  flop: {column: images}\nmetrics:"), "flop is none of a run's variables; did you mean 'flops'?"),
        ((", scale: 0.01", ""), "linear top1 of mae-huge-1024-long-s0 is 50, outside 0 to 1; give percent a 'scale: 0.01'"),
        (("pretrain: {val_loss", "pretrain: {val_los"), "metrics.pretrain.val_loss is needed"),
        (("scale: 1000", "scale: -1"), "variables.images_seen.scale"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(table, change, sentence):
    path = table.parent / "map.yaml"
    assert change[0] in MAPPING
    path.write_text(MAPPING.replace(*change))
    with pytest.raises(UserError) as refused:
        runs_from(table, path)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("loss", float("inf"), "pretrain val_loss of mae-huge-1024-long-s0 is inf; it must be a finite number"),
        ("params_m", None, "encoder_params of mae-huge-1024-long-s0 is missing; it must be a positive"),
        ("epochs", 0, "images_seen of mae-huge-1024-long-s0 is 0; it must be a positive, finite number"),
        ("model", "", "column 'model' is empty in row 1, and is a run's model"),
        ("images", 4096, "two rows give pretrain val_loss of mae-huge-4096-long-s0; name a coordinate"),
    ],
)
def test_what_is_missing_is_said(table, column, value, sentence):
    pyarrow.csv.write_csv(pa.table({**ROWS, column: [value, *ROWS[column][1:]]}), table)
    with pytest.raises(UserError) as refused:
        runs_from(table, table.parent / "map.yaml")
    assert sentence in str(refused.value)


POOL_OF = "pool: {column: kind, values: {crawled: web}, otherwise: photos}\n"


@pytest.fixture
def two_pools(table):
    """The same table with the kind of images that each run was made on."""
    pyarrow.csv.write_csv(pa.table({**ROWS, "kind": ["taken", "crawled", "taken"]}), table)
    return table


@pytest.mark.parametrize(
    ("pool", "names"),
    [
        (POOL_OF, ["photos", "web"]),
        ("pool: {column: kind}\n", ["taken", "crawled"]),
        ("pool: {value: photos}\n", ["photos", "photos"]),
        ("", [None, None]),
    ],
)
def test_the_pool_of_a_run_is_read_by_the_mapping(two_pools, pool, names):
    path = two_pools.parent / "map.yaml"
    path.write_text(MAPPING + pool)
    found = runs_from(two_pools, path)
    assert [one.get("pool") for one in found] == names
    assert [one["run"] for one in found] == ["mae-huge-1024-long-s0", "mae-huge-4096-long-s0"]
    store(two_pools.parent / "imported.json", found)
    again = read_imported(two_pools.parent / "imported.json")
    assert [run.pool for run in runs_of(rows_of(again, (), path), imported=True)] == names


def test_other_names_can_be_given_to_any_coordinate(two_pools):
    path = two_pools.parent / "map.yaml"
    path.write_text(
        MAPPING.replace("subset: {column: images}", "subset: {column: images, values: {'1024': n1024}, otherwise: all}")
    )
    assert [one["subset"] for one in runs_from(two_pools, path)] == ["n1024", "all"]


@pytest.mark.parametrize(
    ("pool", "sentence"),
    [
        ("pool: {column: kin}", "has no column 'kin', which the mapping names; did you mean 'kind'?"),
        ("pool: photos", "pool: "),
        ("pool: {}", "pool: give either 'column' or 'value'"),
        ("pool: {column: kind, value: web}", "pool: give either 'column' or 'value'"),
        ("pool: {value: web, values: {taken: web}}", "'values' are names for the texts of a 'column'"),
        ("pool: {column: kind, otherwise: web}", "'otherwise' is for texts that 'values' does not name; give 'values'"),
        ("pool: {column: kind, values: {crawling: web}}", "the 'values' of pool give no name for 'taken'; known: crawling."),
        ("pool: {column: nothing}", "column 'nothing' is empty in row 1, and is a run's pool; fill it in"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_pool_is_said(two_pools, pool, sentence):
    path = two_pools.parent / "map.yaml"
    path.write_text(f"{MAPPING}{pool}\n")
    pyarrow.csv.write_csv(pa.table({**ROWS, "kind": ["taken", "crawled", "taken"], "nothing": ["", "", ""]}), two_pools)
    with pytest.raises(UserError) as refused:
        runs_from(two_pools, path)
    assert sentence in str(refused.value)


def test_one_run_is_of_one_pool(two_pools):
    rows = {**ROWS, "images": [1024, 1024, 8192], "kind": ["taken", "crawled", "taken"]}
    pyarrow.csv.write_csv(pa.table(rows), two_pools)
    path = two_pools.parent / "map.yaml"
    path.write_text(MAPPING + POOL_OF)
    with pytest.raises(UserError) as refused:
        runs_from(two_pools, path)
    assert str(refused.value).endswith(
        "mae-huge-1024-long-s0 is of pool 'photos' in one row and of 'web' in another; give the subsets of each pool names of their own."
    )


def test_a_pool_that_is_no_name_is_refused(two_pools):
    path = two_pools.parent / "imported.json"
    (two_pools.parent / "map.yaml").write_text(MAPPING + POOL_OF)
    store(path, [{**one, "pool": None} for one in runs_from(two_pools, two_pools.parent / "map.yaml")])
    with pytest.raises(UserError, match=r"the pool of mae-huge-1024-long-s0 is no name; import theirs.csv again"):
        read_imported(path)


@pytest.fixture
def collected(tmp_path, table):
    """A study with four runs of its own, and the two imported ones."""
    plan = Plan(
        models=("tiny",), sizes=(1024, 2048, 4096, 8192), schedules={"long": 65536}, seeds=("s0",), tasks=("linear",)
    )
    study = scaling_study.build(tmp_path, plan)
    store(tmp_path / "imported.json", runs_from(table, table.parent / "map.yaml"))
    told = collect(study, tmp_path, tmp_path / "results", tmp_path / "imported.json")
    assert (told["runs"], told["imported"]) == (4, 2)
    return tmp_path, study


def test_they_are_marked_and_never_the_studys_own(collected):
    root, study = collected
    rows = read_results(root / "results" / "results.parquet")
    theirs = [row for row in rows if row.source == "imported"]
    assert {row.run for row in theirs} == {"mae-huge-1024-long-s0", "mae-huge-4096-long-s0"}
    assert {row.imported_from for row in theirs} == {"theirs.csv"}
    assert {row.imported_from for row in rows if row.source == "made"} == {None}
    assert {run.name for run in runs_of(rows)} == set(study["runs"])
    assert {run.source for run in runs_of(rows, imported=True)} == {"made", "imported"}
    # All that speaks of the study is as it is without them: its headline, its diagnostics, its curves.
    collect(study, root, root / "alone", root / "absent.json")
    alone = read_results(root / "alone" / "results.parquet")
    assert headlines_of(rows) == headlines_of(alone)
    assert (root / "results/headline.json").read_bytes() == (root / "alone/headline.json").read_bytes()
    assert (root / "results/scaling.csv").read_bytes() == (root / "alone/scaling.csv").read_bytes()
    assert json.loads((root / "results/notes.json").read_text())["imported"] == {"theirs.csv": 2}
    options = {"confidence": 0.95, "margin": 0.01, "bootstrap": 100, "seed": 0}
    assert diagnose(rows, **options) == diagnose(alone, **options)
    both, own = (fit(root / of / "results.parquet", {"bootstrap": 100}, root / "fit") for of in ("results", "alone"))
    assert both["fits"] == own["fits"]
    (entry,) = (one for one in both["laws"]["pretrain val_loss"] if one["scope"] == "objective")
    assert entry["rows"]["source"].count("imported") == 2


def test_a_run_of_the_study_is_not_imported(collected):
    root, study = collected
    runs = read_imported(root / "imported.json")
    runs[0]["run"] = next(iter(study["runs"]))
    (root / "imported.json").write_text(json.dumps(runs))
    with pytest.raises(UserError, match=r"imported.json: .* is also a run of the study"):
        collect(study, root, root / "results", root / "imported.json")


def test_a_broken_file_is_refused(collected):
    root, _ = collected
    path = root / "imported.json"
    good = json.loads(path.read_text())
    for broken, sentence in (
        ({}, "is no list of imported runs"),
        ([{"run": "x"}], "is no list of imported runs"),
        ([{**good[0], "encoder_params": None}], "encoder_params of mae-huge-1024-long-s0 is missing"),
        ([{**good[0], "values": [{**good[0]["values"][0], "value": None}]}], "pretrain val_loss of .* is missing"),
    ):
        path.write_text(json.dumps(broken))
        with pytest.raises(UserError, match=sentence):
            read_imported(path)


def test_the_order_of_a_table_changes_nothing(table):
    runs = runs_from(table, table.parent / "map.yaml")
    store(table.parent / "a.json", runs)
    store(table.parent / "b.json", runs[::-1])
    assert (table.parent / "a.json").read_bytes() == (table.parent / "b.json").read_bytes()


@pytest.mark.skipif(not XIE.is_file(), reason="the published table is not beside the checkout")
def test_the_63_runs_can_be_imported():
    found = runs_from(XIE, ROOT / "docs" / "examples" / "xie2023.import.yaml")
    assert len(found) == 63
    assert all([v["metric"] for v in one["values"]] == ["val_loss", "top1"] for one in found)
    # Twelve cells of the released table are on ImageNet-22K: four models at three lengths.
    pools = [one["pool"] for one in found]
    assert {name: pools.count(name) for name in pools} == {"in1k": 51, "in22k": 12}
    assert {one["subset"] for one in found if one["pool"] == "in22k"} == {"ImageNet-22K"}
    runs = runs_of(rows_of(found, (), XIE), imported=True)
    assert len({run.setting for run in runs}) == 5 * 3
    assert {run.values["finetune", "top1"] < 1 for run in runs} == {True}

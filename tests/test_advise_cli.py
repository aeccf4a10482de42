"""``advise`` and ``forecast``: from a study's table to runs in params.yaml and forecasts that are judged later."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from mimcore import layout
from mimcore.cli import app
from mimcore.cli.candidates import variables_of
from mimcore.errors import UserError
from mimcore.plan.work import Counter, parameters
from mimcore.scaling.collect import CURVES
from mimcore.scaling.forecasts import judge, read_forecasts
from mimcore.scaling.laws import repetition
from mimcore.scaling.table import Row, read_results, runs_of, write_results
from mimcore.study import Study

MODEL = "{{architecture: vit_tiny_patch16_224, image_size: 32, patch_size: 8, embed_dim: {}, depth: 2, num_heads: 2}}"
PARAMS = f"""# Do more images help?
pools:
  digits: {{format: digits, images: 100000, image_size: 32, val_images: 1000}}
subsets:  # nested
  n256: {{pool: digits, images: 256}}
  n1024: {{pool: digits, images: 1024}}
  n4096: {{pool: digits, images: 4096}}
  n16384: {{pool: digits, images: 16384}}
models:
  w32: {MODEL.format(32)}
  w64: {MODEL.format(64)}
  w128: {MODEL.format(128)}
  w256: {MODEL.format(256)}
objectives:
  mae: {{mask_ratio: 0.6, decoder_embed_dim: 32, decoder_depth: 1, decoder_num_heads: 2}}
schedules:
  short: {{images_seen: 20480, batch_size: 32, warmup_images: 2048, precision: float32}}
  middle: {{images_seen: 81920, batch_size: 32, warmup_images: 2048, precision: float32}}
  long: {{images_seen: 327680, batch_size: 32, warmup_images: 2048, precision: float32}}
features:
  all: {{pool: digits}}
tasks:
  linear: {{features: all}}
study:
  title: A grid
  pools: [digits]
  subsets: [n256, n1024, n4096, n16384]
  models: [w32, w64, w128]
  objectives: [mae]
  schedules: [short, middle, long]
  seeds: [s0]
  features: [all]
  probes: [linear]
  tasks: []
  extra: {{}}  # odd runs
  phases: {{}}
fit: {{bootstrap: 100}}
"""
TRUTH = np.array([0.4, 6.0, 0.35, 8.0, 0.4, 30.0, 0.1, 3.0, 1.5])


@cache
def encoder_params(study: Path, model: str) -> int:
    return parameters(Study.read(study).options("models", model))


def loss(study: Study, name: str, noise: float = 0.004) -> float:
    at = study.runs[name]
    variables = {
        "encoder_params": np.array([float(encoder_params(study.file.absolute(), at.model))]),
        "unique_images": np.array([float(study.options("subsets", at.subset)["images"])]),
        "images_seen": np.array([float(study.options("schedules", at.schedule)["images_seen"])]),
    }
    random = np.random.default_rng(list(name.encode()))
    return float(repetition.Law().predict(TRUTH[None], variables)[0, 0] * np.exp(noise * random.standard_normal()))


def collect(study: Study, names: list[str]) -> None:
    """The table as ``collect`` would write it, had these runs been made."""
    rows = []
    for name in names:
        at = study.runs[name]
        value = loss(study, name) + (0.1 if study.pool_of("subsets", at.subset) == "other" else 0.0)
        for metric in ("val_loss", "seen_loss", "val_loss_minimum"):
            rows.append(
                Row(
                    kind="run",
                    run=name,
                    objective=at.objective,
                    model=at.model,
                    subset=at.subset,
                    schedule=at.schedule,
                    seed=at.seed,
                    unique_images=study.options("subsets", at.subset)["images"],
                    images_seen=study.options("schedules", at.schedule)["images_seen"],
                    encoder_params=encoder_params(study.file.absolute(), at.model),
                    flops=1e12,
                    task="pretrain",
                    metric=metric,
                    value=value,
                    standard_error=None,
                    higher_is_better=False,
                    headline=metric == "val_loss",
                    pool=study.pool_of("subsets", at.subset),
                )
            )
    layout.RESULTS.mkdir(parents=True, exist_ok=True)
    write_results(layout.RESULTS / "results.parquet", rows)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(PARAMS)
    found = Study.read(Path("params.yaml"))
    collect(found, list(found.runs))
    return found


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    if done.exception:
        raise done.exception
    return done.stdout


def test_advised_runs_are_added_with_forecasts_and_the_file_keeps_its_words(study: Study) -> None:
    text = run("advise", "--budget", "1e15", "--count", "3", "--write", "--json", "advice.json")
    advice: Any = json.loads(Path("advice.json").read_text())
    names = [one["run"] for one in advice["runs"]]
    assert advice["target"] == "mae-w256-n16384-long-s0"
    assert 1 <= len(names) <= 3
    assert all("-w256-" in name for name in names)  # all that is not made
    assert sum(one["cost"] for one in advice["runs"]) <= 1e15
    assert names[0] in text
    after = Path("params.yaml").read_text()
    assert "# Do more images help?" in after
    assert "# nested" in after
    again = Study.read(Path("params.yaml"))
    assert set(again.runs) == set(study.runs) | set(names)
    before = yaml.safe_load(PARAMS)
    now = yaml.safe_load(after)
    assert now["study"].pop("extra").keys() == set(names)
    before["study"].pop("extra")
    assert now == before
    forecasts = read_forecasts(layout.FORECASTS)
    assert [one["run"] for one in forecasts] == names
    collect(again, list(again.runs))
    definitions = {name: again.declared_run(name) for name in names}
    judged = judge(forecasts, runs_of(read_results(layout.RESULTS / "results.parquet")), definitions)
    assert len(judged) == len(names)
    for one in judged:
        assert one["hit"] == (one["low"] <= one["observed"] <= one["high"])
    assert sum(one["hit"] for one in judged) >= len(names) - 1
    # Another definition is another run: nothing is judged.
    assert judge(forecasts, runs_of(read_results(layout.RESULTS / "results.parquet")), {n: {} for n in names}) == []


def test_a_bet_is_not_changed(study: Study) -> None:
    names = list(study.runs)
    collect(study, names[:-2])
    run("forecast")
    first = read_forecasts(layout.FORECASTS)
    assert [one["run"] for one in first] == names[-2:]
    collect(study, names[:-3])
    run("forecast")
    second = read_forecasts(layout.FORECASTS)
    assert second[:2] == first
    assert [one["run"] for one in second[2:]] == names[-3:-2]
    collect(study, names)
    assert "made or forecast" in run("forecast")


def test_what_cannot_be_advised_is_said(study: Study) -> None:
    for arguments, words in (
        (["--budget", "1"], "pay for none"),
        (["--objective", "mea"], "no run of objective 'mea'"),
        (["--target", "w256"], "MODEL-SUBSET-SCHEDULE"),
        (["--target", "w512-n256-long"], "nearest|w256|did you mean|known"),
        (["--law", "repetitoin"], "repetition"),
    ):
        with pytest.raises(Exception, match=words):
            run("advise", *arguments)


@pytest.mark.parametrize("verb", ["advise", "forecast"])
def test_without_a_run_it_is_said_what_to_do(study: Study, verb: str) -> None:
    (layout.RESULTS / "results.parquet").unlink()
    with pytest.raises(UserError, match=r"results.parquet is missing, .* make some with 'dvc repro'"):
        run(verb)


def advice(*arguments: str) -> dict[str, Any]:
    run("advise", *arguments, "--json", "advice.json")
    found: dict[str, Any] = json.loads(Path("advice.json").read_text())
    return found


def test_runs_of_one_length_are_asked_a_law_of_model_and_data(study: Study) -> None:
    collect(study, [name for name in study.runs if "-short-" in name])
    found = advice("--budget", "1e15")
    assert found["law"] == "model_data"
    assert found["target"] == "mae-w256-n16384-short-s0"
    assert all("-short-" in one["run"] for one in found["runs"])
    with pytest.raises(
        UserError, match=r"--target: w256-n16384-long has images_seen 327,680, and all 12 runs .* have 20,480"
    ):
        run("advise", "--target", "w256-n16384-long")
    with pytest.raises(UserError, match=r"forecast: mae-w32-n256-middle-s0 has images_seen 81,920, and all 12 runs"):
        run("forecast")


def test_a_forecast_is_made_of_the_runs_that_the_law_can_be_asked_of(study: Study) -> None:
    made = [name for name in study.runs if "-short-" in name]
    collect(study, made[:-2])
    text = run("forecast")
    assert [one["run"] for one in read_forecasts(layout.FORECASTS)] == made[-2:]
    assert "Of 24 runs the law says nothing" in text


@pytest.fixture
def two_pools(study: Study) -> Study:
    """The largest subset is of another pool, whose losses lie 0.1 higher."""
    text = PARAMS.replace("n16384: {pool: digits", "n16384: {pool: other").replace(
        "pools: [digits]", "pools: [digits, other]"
    )
    other = "  other: {format: digits, images: 100000, image_size: 32, val_images: 1000, seed: 1}\n"
    Path("params.yaml").write_text(text.replace("pools:\n", f"pools:\n{other}", 1))
    return Study.read(Path("params.yaml"))


def test_a_run_of_another_pool_is_forecast_at_its_own_level(two_pools: Study) -> None:
    collect(two_pools, [name for name in two_pools.runs if "w128-n16384-" not in name])
    run("forecast")
    forecasts = {one["run"]: one for one in read_forecasts(layout.FORECASTS)}
    assert set(forecasts) == {f"mae-w128-n16384-{length}-s0" for length in ("short", "middle", "long")}
    for name, one in forecasts.items():
        assert one["value"] == pytest.approx(loss(two_pools, name) + 0.1, abs=0.02)
        assert one["low"] <= loss(two_pools, name) + 0.1 <= one["high"]
    found = advice("--budget", "1e15", "--target", "w256-n16384-long")
    assert "-n16384-" in found["runs"][0]["run"]


def test_of_a_pool_without_a_run_no_law_says_anything(two_pools: Study) -> None:
    collect(two_pools, [name for name in two_pools.runs if "-n16384-" not in name])
    with pytest.raises(
        UserError, match=r"--target: w256-n16384-long is on images of pool 'other', and none of the 27 runs"
    ):
        run("advise", "--budget", "1e15")
    with pytest.raises(UserError, match=r"forecast: mae-w32-n16384-short-s0 is on images of pool 'other'"):
        run("forecast")
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("fit: {bootstrap: 100}", "fit: {bootstrap: 100, pools: alike}"))
    assert "9 forecasts added" in run("forecast")


def test_one_model_of_one_length_leaves_a_law_of_images_alone(study: Study) -> None:
    collect(study, [name for name in study.runs if "-w64-" in name and "-short-" in name])
    with pytest.raises(
        UserError, match=r"--target: w256-n16384-short has encoder_params .*, so that no law says what it does"
    ):
        run("advise", "--budget", "1e15")
    with pytest.raises(
        UserError, match=r"all runs that were made have encoder_params .* and images_seen 20,480, and no candidate has"
    ):
        run("advise", "--budget", "1e15", "--target", "w64-n16384-short")
    with pytest.raises(UserError, match=r"no law can be fitted to these runs:"):
        collect(study, ["mae-w64-n256-short-s0", "mae-w64-n1024-short-s0"])
        run("advise", "--budget", "1e15")


def test_the_law_that_the_fit_chose_is_asked_first(study: Study) -> None:
    entry = {"scope": "objective", "objective": "mae", "chosen": "joint"}
    layout.FIT.mkdir(parents=True)
    (layout.FIT / "fit.json").write_text(json.dumps({"laws": {"pretrain val_loss": [entry]}}))
    assert advice("--budget", "1e15")["law"] == "joint"
    assert advice("--budget", "1e15", "--law", "repetition")["law"] == "repetition"


def test_a_budget_in_hours_of_a_gpu(study: Study) -> None:
    flops = advice("--budget", "1e15")
    # 67e12 float32 operations a second at half of the peak: so many hours are the same budget.
    hours = advice("--gpu-hours", str(1e15 / (67e12 * 0.5) / 3600), "--gpu", "h100", "--utilisation", "0.5")
    assert hours["unit"] == "H100 hours"
    assert [one["run"] for one in hours["runs"]] == [one["run"] for one in flops["runs"]]
    for a, b in zip(hours["runs"], flops["runs"], strict=True):
        assert a["cost"] * 3600 * 67e12 * 0.5 == pytest.approx(b["cost"])
    for wrong in (["--gpu", "h100"], ["--gpu-hours", "3"], ["--gpu", "h100", "--gpu-hours", "3", "--budget", "1"]):
        with pytest.raises(UserError, match=r"a budget is --budget FLOPS, or --gpu-hours HOURS of a --gpu NAME"):
            run("advise", *wrong)
    with pytest.raises(UserError, match=r"--gpu-hours: 0 H100 hours pay for none of 12 candidates"):
        run("advise", "--gpu", "h100", "--gpu-hours", "0")
    with pytest.raises(UserError, match=r"no 'h1000'; did you mean 'h100'"):
        run("advise", "--gpu", "h1000", "--gpu-hours", "3")


CANDIDATES = """name,params_m,images,seen
mae-w256-n4096-long-s0,1.2,4096,327680
mae-w256-n16384-short-s0,1.2,16384,20480
mae-w32-n256-short-s0,0.1,256,20480
something else,5,16384,327680
"""
CANDIDATES_MAP = """
metric: {column: none}
labels: [name]
variables:
  encoder_params: {column: params_m, scale: 1.0e+6}
  unique_images: {column: images}
  images_seen: {column: seen}
"""


def test_candidates_from_a_table(study: Study) -> None:
    Path("runs.csv").write_text(CANDIDATES)
    Path("map.yaml").write_text(CANDIDATES_MAP)
    table = ["--candidates", "runs.csv", "--map", "map.yaml"]
    found = advice(*table, "--budget", "1e20")
    names = {one["run"] for one in found["runs"]}
    assert names <= {"mae-w256-n4096-long-s0", "mae-w256-n16384-short-s0", "something else"}, "the third is made"
    assert "something else" in names
    with pytest.raises(UserError, match=r"--write: 'something else' is no run that params.yaml has definitions for"):
        run("advise", *table, "--budget", "1e20", "--write")
    assert yaml.safe_load(Path("params.yaml").read_text())["study"]["extra"] == {}
    Path("runs.csv").write_text(CANDIDATES.replace("something else", "mae-w256-n1024-long-s0"))
    run("advise", *table, "--budget", "1e20", "--write")
    extra = Study.read(Path("params.yaml")).grid.extra
    assert set(extra) == {one["run"] for one in read_forecasts(layout.FORECASTS)}
    assert "mae-w256-n4096-long-s0" in extra


def test_candidates_of_a_table_have_the_level_of_their_pool(two_pools: Study) -> None:
    collect(two_pools, [name for name in two_pools.runs if "w128-n16384-" not in name])
    lines = [
        "mae-w256-n16384-long-s0,1.2,16384,327680,other",
        "mae-w256-n16384-short-s0,1.2,16384,20480,other",
    ]
    Path("runs.csv").write_text("\n".join(["name,params_m,images,seen,of", *lines, ""]))
    Path("map.yaml").write_text(f"{CANDIDATES_MAP}pool: {{column: of}}\n")
    table = ["--candidates", "runs.csv", "--map", "map.yaml", "--budget", "1e20", "--write"]
    run("advise", *table)
    forecasts = {one["run"]: one for one in read_forecasts(layout.FORECASTS)}
    again = Study.read(Path("params.yaml"))
    for name, one in forecasts.items():
        assert one["value"] == pytest.approx(loss(again, name) + 0.1, abs=0.03)
    assert forecasts
    # All of the first pool, so that the column names no other.
    Path("runs.csv").write_text("name,params_m,images,seen,of\nmae-w256-n4096-long-s0,1.2,4096,327680,digits\n")
    assert advice(*table[:-1])["runs"][0]["run"] == "mae-w256-n4096-long-s0"
    Path("map.yaml").write_text(CANDIDATES_MAP)
    with pytest.raises(UserError, match=r"runs.csv: the runs that were made are of several pools; say by 'pool'"):
        run("advise", *table)


def test_an_imported_pool_that_the_study_does_not_have_is_pointed_out(study: Study) -> None:
    Path("theirs.csv").write_text("model,subset,params,images,seen,loss,of\nw99,k9,9e6,1000,20480,0.5,digit\n")
    Path("map.yaml").write_text(
        "coordinates: {objective: {value: mae}, model: {column: model}, subset: {column: subset}, schedule: {value: short}, "
        "seed: {value: s0}}\npool: {column: of}\nvariables: {encoder_params: {column: params}, unique_images: {column: images}, "
        "images_seen: {column: seen}}\nmetrics: {pretrain: {val_loss: {column: loss}}}\n"
    )
    said = run("import-runs", "theirs.csv", "--map", "map.yaml").splitlines()
    assert said[0].startswith("imported.json: 1 runs of theirs.csv")
    assert said[1:] == [
        "Pool 'digit' is none of params.yaml; did you mean 'digits'? Its runs have a level of their own."
    ]
    Path("theirs.csv").write_text(Path("theirs.csv").read_text().replace(",digit\n", ",digits\n"))
    assert len(run("import-runs", "theirs.csv", "--map", "map.yaml").splitlines()) == 1


def test_a_claim_of_a_pool_that_the_study_does_not_have_is_pointed_out(two_pools: Study) -> None:
    claim = "{kind: improves_with_data, words: More., at: {pool: digit}}"
    text = Path("params.yaml").read_text().replace("fit: {bootstrap: 100}", f"fit: {{claims: {{more: {claim}}}}}")
    Path("params.yaml").write_text(text)
    with pytest.raises(UserError, match=r"fit.claims.more.at.pool: 'digit' is not in the study; did you mean 'digits'"):
        Study.read(Path("params.yaml")).check()
    Path("params.yaml").write_text(text.replace("pool: digit}}", "pool: digits}}"))
    Study.read(Path("params.yaml")).check()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("params_m,", "params,"), "runs.csv has no column 'params_m', which the mapping names; did you mean 'params'"),
        (("1.2,4096,", ",4096,"), "encoder_params of 'mae-w256-n4096-long-s0' is missing"),
        (("5,16384", "-5,16384"), "encoder_params of 'something else' is -5e.06; it must be a positive, finite number"),
        (("something else", "mae-w32-n256-short-s0"), "2 rows are called 'mae-w32-n256-short-s0'"),
    ],
)
def test_a_wrong_table_of_candidates_is_refused(study: Study, change: tuple[str, str], sentence: str) -> None:
    assert change[0] in CANDIDATES
    Path("runs.csv").write_text(CANDIDATES.replace(*change))
    Path("map.yaml").write_text(CANDIDATES_MAP)
    with pytest.raises(UserError, match=sentence):
        run("advise", "--candidates", "runs.csv", "--map", "map.yaml")


def reported() -> list[tuple[str, ...]]:
    """Model, unique images, images seen and, of several, the seed of each run that the report names to narrow a forecast."""
    runs = runs_of(read_results(layout.RESULTS / "results.parquet"))
    points = [
        {"run": one.name, "images_seen": seen, "split": split, "loss": 1.0}
        for one in runs
        for split in ("val", "seen")
        for seen in (one.images_seen // 2, one.images_seen)
    ]
    pq.write_table(pa.Table.from_pylist(points, schema=CURVES), layout.RESULTS / "curves.parquet")
    notes = {"title": "A grid", "libraries": {}, "warnings": [], "imported": {}, "not_applicable": []}
    (layout.RESULTS / "notes.json").write_text(json.dumps(notes))
    run("fit")
    run("report")
    lines = (layout.REPORT / "report.md").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("Runs that narrow the forecast of "))
    head = [cell.strip() for cell in lines[first + 2].split("|")]
    rows = []
    for line in lines[first + 4 :]:
        if not line.startswith("|"):
            break
        cells = dict(zip(head, (cell.strip() for cell in line.split("|")), strict=True))
        rows.append(tuple(cells[name] for name in ("model", "unique images", "images seen", "seed") if name in cells))
    return rows


def counted(study: Study, names: list[str]) -> None:
    """The same table with the operations of each run as they are counted, which the verb prices its candidates by."""
    collect(study, names)
    table = layout.RESULTS / "results.parquet"
    rows, counter = read_results(table), Counter()
    flops = {name: float(variables_of(study, [study.runs[name]], counter)[1][0]) for name in names}
    write_results(table, [replace(row, flops=flops[str(row.run)]) for row in rows])


#: What the report may name, and no more: the models, lengths and seeds at hand, and as the largest subset twice the largest that was run.
DEFINED = PARAMS.replace("  w256: " + MODEL.format(256).replace("{{", "{").replace("}}", "}") + "\n", "").replace(
    "n16384: {pool: digits, images: 16384}", "n16384: {pool: digits, images: 8192}"
)


@pytest.mark.parametrize(
    ("lengths", "models", "seeds", "law"),
    [
        (("middle",), ("w32", "w64", "w128"), ("s0",), "model_data"),
        (("middle",), ("w32", "w64", "w128"), ("s0", "s1"), "model_data"),
        (("middle",), ("w64",), ("s0", "s1"), "power"),
        (("short", "middle"), ("w32", "w64", "w128"), ("s0",), None),
    ],
)
def test_the_report_advises_what_the_verb_does(
    study: Study, lengths: tuple[str, ...], models: tuple[str, ...], seeds: tuple[str, ...], law: str | None
) -> None:
    """Of the same runs that could be made, both name the same, in the same order; of one length too, and of one model."""
    text = DEFINED.replace("models: [w32, w64, w128]", f"models: [{', '.join(models)}]")
    text = text.replace("seeds: [s0]", f"seeds: [{', '.join(seeds)}]")
    for name in {"w32", "w64", "w128"} - set(models):
        text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith(f"  {name}:"))
    text = text.replace("schedules: [short, middle, long]", f"schedules: [{', '.join(lengths)}]")
    # What is twice the longest that was run is defined where lengths are told apart.
    text = text.replace("long: {images_seen: 327680", "long: {images_seen: 163840")
    if not lengths[1:]:
        text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith(("  short:", "  long:")))
    Path("params.yaml").write_text(text)
    study = Study.read(Path("params.yaml"))
    names = [name for name in study.runs if "-n16384-" not in name]
    gaps = {f"mae-{models[-1]}-n1024-{lengths[0]}-{seeds[-1]}", f"mae-{models[0]}-n4096-{lengths[-1]}-s0"}
    counted(study, [name for name in names if name not in gaps])
    told = reported()
    # Of several lengths the report forecasts the longest that was run, and the verb the longest that is defined.
    found = advice(*(["--target", f"{models[-1]}-n16384-{lengths[-1]}"] if lengths[1:] else []))
    assert told
    assert law in (None, found["law"])
    images = {"n256": "256", "n1024": "1k", "n4096": "4.1k", "n16384": "8.2k"}
    seen = {"short": "20k", "middle": "82k", "long": "164k"}
    parts = [one["run"].split("-") for one in found["runs"]]
    assert told == [
        (model, images[subset], seen[schedule], *((seed,) if seeds[1:] else ()))
        for _, model, subset, schedule, seed in parts
    ]


IMPORT_MAP = """
coordinates:
  {objective: {value: OBJECTIVE}, model: {column: model}, subset: {column: subset}, schedule: {column: schedule}, seed: {value: SEED}}
variables: {encoder_params: {column: params}, unique_images: {column: images}, images_seen: {column: seen}FLOPS}
metrics: {pretrain: {val_loss: {column: loss}}}
"""


def imported(study: Study, objective: str = "mae", seed: str = "theirs", flops: bool = False) -> dict[str, float]:
    """Take the whole grid in from a table of somebody else's runs, and return their losses."""
    losses = {name: loss(study, name) for name in study.runs}
    lines = ["model,subset,schedule,params,images,seen,loss,flops"]
    for name, value in losses.items():
        at = study.runs[name]
        facts = (study.options("subsets", at.subset)["images"], study.options("schedules", at.schedule)["images_seen"])
        params = encoder_params(study.file.absolute(), at.model)
        lines.append(f"{at.model},{at.subset},{at.schedule},{params},{facts[0]},{facts[1]},{value!r},1e12")
    Path("theirs.csv").write_text("\n".join([*lines, ""]))
    text = (
        IMPORT_MAP.replace("OBJECTIVE", objective)
        .replace("SEED", seed)
        .replace("FLOPS", ", flops: {column: flops}" if flops else "")
    )
    Path("theirs.yaml").write_text(text)
    run("import-runs", "theirs.csv", "--map", "theirs.yaml")
    return losses


def test_of_imported_runs_alone_the_advice_is_that_of_the_same_runs_made_here(study: Study) -> None:
    """Nothing was run here: candidates are what params.yaml defines, those of the grid too, at the FLOPs that are counted for them."""
    made = advice("--budget", "1e15", "--target", "w256-n16384-long")
    (layout.RESULTS / "results.parquet").unlink()
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("models: [w32, w64, w128]", "models: [w256]"))  # made by nobody
    imported(study, seed="s0")
    assert advice("--budget", "1e15", "--target", "w256-n16384-long") == made
    with pytest.raises(UserError, match=r"no run of 'mae' says how many FLOPs it took; give --budget FLOPS"):
        run("advise")
    Path("params.yaml").write_text(text)
    with pytest.raises(UserError, match=r"mae-w128-n1024-long-s0 \(from theirs.csv\) is also a run of the study"):
        run("advise", "--budget", "1e15")


def test_what_imported_runs_took_is_the_budget_where_nothing_was_run_here(study: Study) -> None:
    (layout.RESULTS / "results.parquet").unlink()
    imported(study, flops=True)
    assert advice()["budget"] == pytest.approx(1e12 * len(study.runs))


def test_runs_are_forecast_from_imported_ones_alone(study: Study) -> None:
    (layout.RESULTS / "results.parquet").unlink()
    losses = imported(study)
    assert "36 forecasts added" in run("forecast")
    forecasts = read_forecasts(layout.FORECASTS)
    assert {one["run"] for one in forecasts} == set(study.runs)
    inside = [one["low"] <= losses[one["run"]] <= one["high"] for one in forecasts]
    assert np.mean(inside) > 0.8
    found = advice("--budget", "1e15", "--write")
    names = {one["run"] for one in found["runs"]}
    assert Study.read(Path("params.yaml")).grid.extra.keys() == names
    assert not names & set(study.runs)
    assert {one["run"] for one in advice("--budget", "1e15")["runs"]} & set(study.runs), "what waits may be made next"


def test_an_objective_of_imported_runs_has_advice_beside_one_that_was_run_here(study: Study) -> None:
    """What is imported counts from then on, without 'dvc repro'; an objective that params.yaml does not define has no candidates."""
    imported(study, "simmim")
    with pytest.raises(UserError, match=r"params.yaml: objectives has no 'simmim'"):
        run("advise", "--objective", "simmim", "--budget", "1e15")
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(
        text.replace("\nschedules:", "\n  simmim: {mask_ratio: 0.6, mask_unit: 8}\nschedules:")
    )
    found = advice("--objective", "simmim", "--budget", "1e15")
    assert found["runs"]
    assert all(one["run"].startswith("simmim-") for one in found["runs"])
    with pytest.raises(UserError, match=r"there is no run of objective 'feature'; run 'dvc repro', take in those of a"):
        run("advise", "--objective", "feature", "--budget", "1e15")

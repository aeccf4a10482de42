"""Runs that follow a run: a branch of a trunk is the run of its length, bit for bit; weights, teachers and what is prepared arrive."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_run
import torch
from small_run import Trained

from mimcore import registry
from mimcore.errors import UserError
from mimcore.models import encoder as encoders
from mimcore.models.objective import Given
from mimcore.objectives import mae
from mimcore.plan.work import Counter, Stage
from mimcore.sampling.prepare import prepare
from mimcore.training import loop
from mimcore.training.pretrain import given_to
from mimcore.training.schedule import Schedule, branch_start
from mimcore.training.state import Run, start_run
from mimcore.training.states import DIGESTS, FOLDER

#: Stochastic depth draws in every step, and the average must be part of the state.
MODEL = small_run.MODEL | {"depth": 2, "drop_path_rate": 0.3}
TRUNK = {"decay": "wsd", "decay_images": 0, "keep_states": [160, 320, 480], "ema_decay": 0.9}
#: Length of a branch, and its decay; the last one has no state at its start, and goes on from the one before.
BRANCHES = {240: 80, 400: 80, 480: 80}
STARTS = {240: 160, 400: 320, 480: 320}


def declared(**schedule: Any) -> dict[str, Any]:
    return small_run.definition(**(TRUNK | schedule)) | {"model": MODEL}


def branch(length: int) -> dict[str, Any]:
    """Of a run of this length by itself; as a branch, it follows the trunk."""
    return declared(images_seen=length, decay_images=BRANCHES[length], keep_states=[], validations=length // 80)


def following(definition: dict[str, Any], use: str, before: dict[str, Any] | None = None) -> dict[str, Any]:
    return definition | {"use": use, "after": before or declared()}


@pytest.fixture(scope="module")
def trunk(root: Path) -> Trained:
    return small_run.train(root, "trunk", declared())


def trained_images(root: Path, name: str) -> int:
    return int(json.loads(small_run.provenance(root, name).read_text())["trained_images"])


@pytest.mark.parametrize("length", BRANCHES)
def test_a_branch_is_the_run_of_its_length(root: Path, trunk: Trained, length: int) -> None:
    alone = small_run.train(root, f"alone{length}", branch(length))
    made = small_run.train(root, f"branch{length}", following(branch(length), "state"), trunk.folder)
    assert made.bytes()["encoder.safetensors"] == alone.bytes()["encoder.safetensors"]
    for name in ("val_loss", "seen_loss"):
        assert made.metrics()["metrics"][name] == alone.metrics()["metrics"][name]
    assert made.metrics()["facts"] == alone.metrics()["facts"], "for a law it is the run of this length"
    points = [
        [p for p in pq.read_table(t.folder / "curve.parquet").to_pylist() if p["images_seen"] > STARTS[length]]
        for t in (made, alone)
    ]
    assert points[0][-3:] == points[1][-3:]
    assert made.told == list(range(STARTS[length], length + 1, 16))
    assert alone.bytes()["encoder.safetensors"] != trunk.bytes()["encoder.safetensors"]


def test_a_trunk_and_its_branches_train_what_arithmetic_says(root: Path, trunk: Trained) -> None:
    for length in BRANCHES:
        small_run.train(root, f"branch{length}", following(branch(length), "state"), trunk.folder)
    together = [trained_images(root, "trunk"), *(trained_images(root, f"branch{length}") for length in BRANCHES)]
    assert together == [480, *(length - STARTS[length] for length in BRANCHES)]
    assert sum(together) == 480 + 80 + 80 + 160
    assert sum(together) < sum(BRANCHES)
    counter = Counter()
    for length, images in zip(BRANCHES, together[1:], strict=True):
        counted = counter(Stage("pretrain", "p", (), following(branch(length), "state"), (150,)))
        alone = counter(Stage("pretrain", "p", (), branch(length), (150,)))
        points = {80: 1, 160: 2}[images]  # every 80 images, on 24 images of the validation split and 24 of the subset
        assert counted.images == images + 48 * points
        assert alone.images == length + 48 * (length // 80 + 1)
        assert counted.flops < alone.flops


def test_a_trunk_has_a_loss_and_its_states_are_the_same_each_time(root: Path, trunk: Trained) -> None:
    assert trunk.metrics()["metrics"]["val_loss"] > 0
    states = {f.name: f.read_bytes() for f in (trunk.folder / FOLDER).iterdir()}
    assert set(states) == {"160.pt", "320.pt", "480.pt", DIGESTS}
    again = small_run.train(root, "again", declared(), workers=1)
    assert {f.name: f.read_bytes() for f in (again.folder / FOLDER).iterdir()} == states


def test_a_trunk_that_breaks_off_after_a_state_still_has_it(
    root: Path, trunk: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = loop.train_step

    def breaking(run: Run, *rest: Any) -> None:
        if run.step == 15:
            raise UserError("the machine is gone")
        step(run, *rest)

    with monkeypatch.context() as patch, pytest.raises(UserError, match="the machine is gone"):
        patch.setattr(loop, "train_step", breaking)
        small_run.train(root, "broken_off", declared(), checkpoint_seconds=1e-9)
    made = small_run.train(root, "broken_off", declared(), checkpoint_seconds=3600)
    assert made.told[0] == 240, "the state at 160 images is not made a second time"
    for name in ("160.pt", "320.pt", DIGESTS):
        assert (made.folder / FOLDER / name).read_bytes() == (trunk.folder / FOLDER / name).read_bytes()


def test_a_trunk_can_be_made_longer(root: Path, trunk: Trained) -> None:
    """A branch may be a trunk itself, which goes on from the last state."""
    more = declared(images_seen=640, keep_states=[560])
    longer = small_run.train(root, "longer", following(more, "state"), trunk.folder)
    assert longer.told[0] == 480
    alone = small_run.train(root, "longer_alone", more)
    assert longer.bytes()["encoder.safetensors"] == alone.bytes()["encoder.safetensors"]
    mine, its = (torch.load(t.folder / FOLDER / "560.pt", weights_only=True)["tensors"] for t in (longer, alone))
    assert all(torch.equal(mine["objective"][key], its["objective"][key]) for key in its["objective"])


def test_a_broken_or_missing_state_is_said(root: Path, trunk: Trained, tmp_path: Path) -> None:
    state = tmp_path / FOLDER / "160.pt"
    state.parent.mkdir()
    for name in ("160.pt", DIGESTS):
        (state.parent / name).write_bytes((trunk.folder / FOLDER / name).read_bytes())
    data = state.read_bytes()
    state.write_bytes(data[:500] + bytes([data[500] ^ 1]) + data[501:])
    with pytest.raises(UserError, match=r"160\.pt is not as it was written; delete .* and run 'dvc repro'"):
        small_run.train(root, "from_broken", following(branch(240), "state"), tmp_path)
    state.unlink()
    with pytest.raises(UserError, match=r"160\.pt is missing"):
        small_run.train(root, "from_missing", following(branch(240), "state"), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_decay": 0.1}, "weight_decay differ"),
        ({"batch_size": 32}, "batch_size differ"),
        (
            {"images_seen": 160, "decay_images": 80, "keep_states": []},
            "begins to decay at 80 images seen, and its trunk keeps no state",
        ),
        ({"images_seen": 640, "keep_states": [480, 560]}, "must be beyond 480, where it leaves its trunk"),
    ],
)
def test_what_is_no_branch_is_refused(change: dict[str, Any], message: str) -> None:
    schedule = small_run.SCHEDULE | TRUNK
    with pytest.raises(ValueError, match=message):
        branch_start(Schedule.model_validate(schedule), Schedule.model_validate(schedule | change))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep_states": [320, 160]}, "must ascend from the end of the warmup at 64 to the start of the decay at 480"),
        ({"keep_states": [48]}, "must ascend from the end of the warmup at 64"),
        ({"keep_states": [168]}, "in whole batches of 16"),
        ({"keep_states": [464], "decay_images": 32}, "to the start of the decay at 448"),
        ({"decay": "cosine", "decay_images": None}, "keep_states is an option of 'decay: wsd'"),
    ],
)
def test_states_are_kept_at_a_constant_rate_alone(options: dict[str, Any], message: str) -> None:
    schedule = {k: v for k, v in (small_run.SCHEDULE | TRUNK | options).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        Schedule.model_validate(schedule)


def test_a_phase_starts_from_the_weights_of_another_image_size(root: Path, undisturbed: Trained) -> None:
    first = small_run.definition()
    for image_size in (32, 48):
        model = small_run.MODEL | {"image_size": image_size}
        phase = following(small_run.definition(seed="s1") | {"model": model}, "weights", first)
        run = start_run(phase, torch.device("cpu"), after=undisturbed.folder)
        source, mine = encoders.load(undisturbed.folder).module.state_dict(), run.encoder.module.state_dict()
        same = [name for name, tensor in mine.items() if tensor.shape == source[name].shape and name != "pos_embed"]
        assert len(same) >= len(mine) - 1
        assert all(torch.equal(mine[name], source[name]) for name in same)
        assert mine["pos_embed"].shape[1] == (image_size // 8) ** 2 + 1
        assert torch.equal(mine["pos_embed"], source["pos_embed"]) == (image_size == 32)


def test_a_second_phase_is_a_run_of_its_own(root: Path, undisturbed: Trained) -> None:
    options = small_run.OBJECTIVE | {"norm_pix_loss": False}
    phase = following(small_run.definition() | {"objective": options}, "weights", small_run.definition())
    made = small_run.train(root, "second", phase, undisturbed.folder)
    afresh = small_run.train(root, "first_of_its_kind", small_run.definition() | {"objective": options})
    assert made.told == afresh.told, "as long as any run of its schedule"
    assert made.metrics()["definition"]["after"] == small_run.definition()
    assert made.bytes()["encoder.safetensors"] != afresh.bytes()["encoder.safetensors"]
    assert trained_images(root, "second") == 480


def test_weights_that_do_not_fit_are_refused(undisturbed: Trained) -> None:
    phase = following(small_run.definition() | {"model": small_run.MODEL | {"embed_dim": 64}}, "weights")
    with pytest.raises(UserError, match=r"study\.phases: the encoder of .* does not fit"):
        start_run(phase, torch.device("cpu"), after=undisturbed.folder)


@pytest.fixture
def learning(monkeypatch: pytest.MonkeyPatch) -> list[Given]:
    """An objective module that learns of its subset; the list has what its objectives were given."""
    given: list[Given] = []

    class Objective(mae.Objective):
        def __init__(self, encoder: Any, config: Any, what: Given) -> None:
            super().__init__(encoder, config, what)
            given.append(what)

    def learn(config: mae.Config, rows: pa.Table, folder: Path) -> None:
        (folder / "keys.json").write_text(json.dumps([config.mask_ratio, *sorted(rows["key"].to_pylist())[:2]]))

    module = ModuleType("learning")
    vars(module).update(Config=mae.Config, Objective=Objective, prepare=learn)
    monkeypatch.setattr(registry, "load", lambda kind, name: module)
    monkeypatch.setattr(registry, "defines", lambda kind, name, function: True)
    return given


def test_what_is_prepared_and_the_teacher_are_given_to_the_objective(
    root: Path, undisturbed: Trained, learning: list[Given], tmp_path: Path
) -> None:
    options = {"module": "learning", "mask_ratio": 0.5}
    assert prepare("learning", options, root / "artifacts/subsets/n150-s0", tmp_path / "prepared")
    ratio, *keys = json.loads((tmp_path / "prepared/keys.json").read_text())
    assert ratio == 0.5
    assert len(keys) == 2
    options |= {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}
    phase = following(small_run.definition(images_seen=80) | {"objective": options}, "teacher", small_run.definition())
    small_run.train(root, "taught", phase, undisturbed.folder, tmp_path / "prepared")
    assert learning[0] == Given(tmp_path / "prepared", undisturbed.folder, root)


def test_an_objective_that_learns_nothing_is_not_imported(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "load", lambda kind, name: pytest.fail("it was imported"))
    assert not prepare("mae", {"module": "mae"}, tmp_path / "no subset is read", tmp_path / "prepared")
    assert json.loads((tmp_path / "prepared/prepared.json").read_text()) == {}
    assert [file.name for file in (tmp_path / "prepared").iterdir()] == ["prepared.json"]
    assert given_to(small_run.definition(), tmp_path / "prepared", None, root) == Given(None, None, root)
    assert registry.defines("format", "digits", "list_shards")
    assert not registry.defines("objective", "mae", "prepare")
    with pytest.raises(UserError, match="there is no objective called 'maee'; did you mean 'mae'"):
        registry.defines("objective", "maee", "prepare")
    assert "mimcore.objectives.mae" in sys.modules

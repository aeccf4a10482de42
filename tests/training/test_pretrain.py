"""What a run writes, against counts by hand; and what does, or does not, change it."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_run
import timm
import torch
from safetensors.torch import load_file
from small_run import MODEL, OBJECTIVE, STEPS, Trained

from mimcore.models import encoder as encoders
from mimcore.training import pretrain as stage
from mimcore.training.optimizer import build_optimizer
from mimcore.training.schedule import Schedule
from mimcore.training.state import Run

SCHEDULE = Schedule.model_validate(small_run.SCHEDULE)
PATCHES, PATCH_VALUES = (32 // 8) ** 2, 8 * 8 * 3
KEPT = PATCHES // 4


def test_the_artifact_has_the_files_of_the_contract_and_its_provenance(root: Path, undisturbed: Trained) -> None:
    assert set(undisturbed.bytes()) == small_run.FILES
    record = json.loads(small_run.provenance(root, "undisturbed").read_text())
    assert record["resolved"]["schedule"]["weight_decay"] == 0.05  # a default, filled in
    assert record["images_seen"] > 0
    assert not list((root / ".mimcore/runs").glob("*/checkpoint-*"))


def test_simmim_trains_through_the_same_stage(root: Path) -> None:
    """Whole batches or parts of them; the encoder loads in plain timm, without the mask token."""
    declared = small_run.definition() | {"objective": {"module": "simmim", "mask_unit": 8, "target_window": 15}}
    whole = small_run.train(root, "simmim", declared)
    assert set(whole.bytes()) == small_run.FILES
    points = [p for p in pq.read_table(whole.folder / "curve.parquet").to_pylist() if p["split"] == "val"]
    assert points[-1]["loss"] < 0.9 * points[0]["loss"]
    timm_model = json.loads((whole.folder / "model.json").read_text())["timm"]
    model = timm.create_model(timm_model["model_name"], **timm_model["kwargs"])
    model.load_state_dict(load_file(whole.folder / "encoder.safetensors"), strict=True)
    parts = small_run.train(root, "simmim-parts", declared, micro_batch=5)
    assert parts.metrics()["metrics"]["val_loss"] == pytest.approx(points[-1]["loss"], rel=1e-3)


def test_metrics_name_definition_libraries_losses_and_facts(undisturbed: Trained) -> None:
    metrics = undisturbed.metrics()
    assert set(metrics) == {"definition", "libraries", "metrics", "facts"}
    assert metrics["definition"] == small_run.definition()
    assert metrics["libraries"]["torch"] == torch.__version__.partition("+")[0]
    assert set(metrics["metrics"]) == {"val_loss", "seen_loss", "train_loss"}
    assert set(metrics["facts"]) == {"unique_images", "images_seen", "encoder_params", "flops"}
    assert (metrics["facts"]["unique_images"], metrics["facts"]["images_seen"]) == (150, 480)


def test_the_curve_has_a_point_of_each_split_at_equal_numbers_of_images_seen(undisturbed: Trained) -> None:
    curve = pq.read_table(undisturbed.folder / "curve.parquet")
    kinds = [pa.int64(), pa.string(), pa.float64(), pa.float64(), pa.float64()]
    assert curve.schema.names == ["images_seen", "split", "loss", "learning_rate", "grad_norm"]
    assert curve.schema.types == kinds
    points = curve.to_pylist()
    at = {split: [p["images_seen"] for p in points if p["split"] == split] for split in ("val", "seen", "train")}
    assert at == {"val": [0, 160, 320, 480], "seen": [0, 160, 320, 480], "train": [160, 320, 480]}
    for point in points:
        known = point["split"] == "train"
        assert (point["learning_rate"] is not None, point["grad_norm"] is not None) == (known, known)
    last = {point["split"]: point["loss"] for point in points}
    assert undisturbed.metrics()["metrics"] == {f"{split}_loss": loss for split, loss in last.items()}
    assert last["val"] < points[0]["loss"]


def test_flops_equal_the_matrix_products_counted_by_hand(undisturbed: Trained) -> None:
    """Exactly, as both count the same products: no tolerance is needed.

    A product of (m, k) and (k, n) has m k n multiply-adds. Backward has two products of the same cost for each of the
    forward, the gradients of either factor; but pixels need none, so the patch projection has only one. Element-wise
    work, norms and softmax are no matrix products.
    """

    def block(tokens: int, width: int) -> int:
        qkv, projection, mlp = 3 * width * width, width * width, 2 * width * 4 * width
        return tokens * (qkv + projection + mlp) + 2 * tokens * tokens * width

    wide, narrow = int(MODEL["embed_dim"]), int(str(OBJECTIVE["decoder_embed_dim"]))  # type: ignore[call-overload]
    patch_projection = KEPT * PATCH_VALUES * wide
    encoder = patch_projection + block(KEPT + 1, wide)
    decoder = (KEPT + 1) * wide * narrow + block(PATCHES + 1, narrow) + (PATCHES - KEPT) * narrow * PATCH_VALUES
    forward_and_backward = 3 * (encoder + decoder) - patch_projection
    assert undisturbed.metrics()["facts"]["flops"] == 2 * forward_and_backward * 480


def test_encoder_params_equal_the_count_from_the_shapes(undisturbed: Trained) -> None:
    d = 32
    embedding = PATCH_VALUES * d + d + d + (PATCHES + 1) * d  # projection, class token, positions
    block = 2 * d + (3 * d * d + 3 * d) + (d * d + d) + 2 * d + (4 * d * d + 4 * d) + (4 * d * d + d)
    assert undisturbed.metrics()["facts"]["encoder_params"] == embedding + block + 2 * d


def test_the_encoder_loads_strictly_and_is_in_no_way_the_untrained_one(undisturbed: Trained) -> None:
    trained = encoders.load(undisturbed.folder).module
    fresh = stage.start_run(small_run.definition(), torch.device("cpu")).encoder.module
    moved = {name for name, weight in fresh.named_parameters() if not torch.equal(weight, trained.get_parameter(name))}
    assert moved == {name for name, _ in fresh.named_parameters()} - {"pos_embed"}


@pytest.mark.parametrize(("workers", "cache"), [(0, 1024), (1, 0), (3, 1024)])
def test_a_rerun_gives_the_same_bytes_whatever_the_workers(
    root: Path, undisturbed: Trained, workers: int, cache: int
) -> None:
    torch.manual_seed(workers + 5)
    again = small_run.train(root, f"workers{workers}", workers=workers, image_cache_mib=cache)
    assert again.bytes() == undisturbed.bytes()


def test_another_seed_gives_another_run_with_the_same_validation(
    root: Path, undisturbed: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: dict[tuple[str, bool], list[tuple[int, ...]]] = {}
    start = stage.start_run

    def watched(*arguments: Any) -> Run:
        run = start(*arguments)

        def note(module: torch.nn.Module, arguments: tuple[torch.Tensor, torch.Tensor]) -> None:
            seeds.setdefault((run.seed, module.training), []).append(tuple(arguments[1].flatten().tolist()))

        run.objective.register_forward_pre_hook(note)
        return run

    monkeypatch.setattr(stage, "start_run", watched)
    first = small_run.train(root, "seed0")
    other = small_run.train(root, "seed1", small_run.definition(seed="s1"))
    assert first.bytes() == undisturbed.bytes()
    changed = {"encoder.safetensors", "curve.parquet", "reconstructions.png"}
    assert all(other.bytes()[name] != undisturbed.bytes()[name] for name in changed)
    # Masks are a function of the generator's seed: equal in validation, different in training (counting FLOPs and memory aside).
    assert seeds["s0", False] == seeds["s1", False]
    assert len(seeds["s0", False]) == 2 * (SCHEDULE.validations + 1)
    assert not set(seeds["s0", True][2:]) & set(seeds["s1", True][2:])
    assert len(set(seeds["s0", True][2:])) == STEPS


def test_train_losses_and_learning_rates_are_those_of_the_steps(
    root: Path, undisturbed: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: list[float] = []
    rates: list[set[float]] = []
    start = stage.start_run

    def watched(*arguments: Any) -> Run:
        run = start(*arguments)

        def note_loss(module: torch.nn.Module, arguments: Any, result: dict[str, torch.Tensor]) -> None:
            if module.training:
                losses.append(float(result["loss"].detach()))

        def note_rate(optimizer: torch.optim.Optimizer, *arguments: Any) -> None:
            rates.append({group["lr"] for group in optimizer.param_groups})

        run.objective.register_forward_hook(note_loss)
        run.optimizer.register_step_pre_hook(note_rate)
        return run

    monkeypatch.setattr(stage, "start_run", watched)
    again = small_run.train(root, "watched")
    assert again.bytes() == undisturbed.bytes()
    assert rates == [{SCHEDULE.learning_rate(step)} for step in range(STEPS)]
    steps = losses[2:]  # the first counted FLOPs, the second memory
    assert len(steps) == STEPS
    points = pq.read_table(again.folder / "curve.parquet").to_pylist()
    means = [point["loss"] for point in points if point["split"] == "train"]
    assert means == pytest.approx([sum(steps[i : i + 10]) / 10 for i in (0, 10, 20)], rel=1e-6)
    told = [point["learning_rate"] for point in points if point["split"] == "train"]
    assert told == [SCHEDULE.learning_rate(step) for step in (9, 19, 29)]


def test_only_matrices_are_decayed() -> None:
    run = stage.start_run(small_run.definition(), torch.device("cpu"))
    decay = {id(p): group["weight_decay"] for group in run.optimizer.param_groups for p in group["params"]}
    parameters = {name: p for name, p in run.objective.named_parameters() if p.requires_grad}
    assert set(decay) == {id(p) for p in parameters.values()}
    spared = {name for name, p in parameters.items() if decay[id(p)] == 0}
    assert spared == {name for name in parameters if name.endswith(".bias") or "norm" in name}
    assert {decay[id(p)] for name, p in parameters.items() if name not in spared} == {0.05}


def test_decay_shrinks_a_matrix_without_gradient_and_leaves_a_bias() -> None:
    """AdamW decays by learning rate times decay, apart from the gradient (Loshchilov & Hutter 2019, algorithm 2)."""
    layer = torch.nn.Linear(3, 2)
    torch.nn.init.ones_(layer.bias)
    before = layer.weight.detach().clone()
    optimizer = build_optimizer(layer, SCHEDULE)
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 0.1
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), before * (1 - 0.1 * 0.05))
    assert torch.equal(layer.bias.detach(), torch.ones(2))

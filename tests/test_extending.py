"""The examples of docs/extending.md, taken from the page and run as modules that a study names."""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn import functional

import mimcore.objectives
from mimcore import registry
from mimcore.definition import problems
from mimcore.models.objective import drawn_for
from mimcore.training.flops import trace
from mimcore.training.randomness import generator
from mimcore.training.state import Run, start_run
from mimcore.training.step import train_step

PAGE = (Path(__file__).parents[1] / "docs/extending.md").read_text(encoding="utf-8")
MODEL = {"image_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
OBJECTIVE: dict[str, Any] = {"module": "colour_histogram", "mask_ratio": 0.6}
SCHEDULE = {
    "images_seen": 320,
    "batch_size": 16,
    "base_learning_rate": 3e-2,
    "warmup_images": 0,
    "precision": "float32",
}
CPU = torch.device("cpu")


def code(heading: str) -> str:
    """The first Python of a section."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found, f"'{heading}' has no Python"
    return found[1]


@pytest.fixture
def objective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The example as ``mimcore/objectives/colour_histogram.py``, which lies in a folder beside."""
    (tmp_path / "colour_histogram.py").write_text(code("An objective"), encoding="utf-8")
    names = registry.names
    monkeypatch.setattr(mimcore.objectives, "__path__", [*mimcore.objectives.__path__, str(tmp_path)])
    monkeypatch.setattr(registry, "names", lambda kind: [*names(kind), *["colour_histogram"] * (kind == "objective")])
    importlib.invalidate_caches()
    yield registry.load("objective", "colour_histogram")
    del sys.modules["mimcore.objectives.colour_histogram"]


def batch() -> torch.Tensor:
    """Images of one colour each, from dark to bright."""
    return torch.linspace(0, 255, 16).byte().view(16, 1, 1, 1).expand(16, 3, 32, 32).contiguous()


def loss_of(run: Run, images: torch.Tensor) -> float:
    drawn = drawn_for(run.objective, len(images), generator("test", "mask"))
    with torch.no_grad():
        return float(run.objective(run.encoder.normalize(images), drawn)["loss"])


def test_the_objective_is_as_short_as_the_page_says_and_is_found_by_its_text(objective: ModuleType) -> None:
    assert code("An objective").count("\n") < 60
    assert registry._defines(Path(str(objective.__file__)), registry.ENTRY["objective"])
    assert problems(objective.Config, {"bins": 8, "mask_ratio": 0.6}, "objectives") == []
    assert "unknown option; did you mean 'bins'" in problems(objective.Config, {"bin": 8}, "objectives")[0]


def test_the_objective_trains_and_is_counted(objective: ModuleType) -> None:
    run = start_run({"objective": OBJECTIVE, "model": MODEL, "schedule": SCHEDULE, "seed": "s0"}, CPU)
    before = loss_of(run, batch())
    for _ in range(2):
        train_step(run, batch())
        run.objective.after_step(run.step, 20)
    assert loss_of(run, batch()) < 0.95 * before
    cost = trace(MODEL, OBJECTIVE)
    assert cost.training > 2 * cost.forward > 0


def test_the_objective_is_the_cross_entropy_of_the_hidden_patches(objective: ModuleType) -> None:
    """Bin by bin, with a head that says the same everywhere."""
    run = start_run({"objective": OBJECTIVE | {"bins": 4}, "model": MODEL, "schedule": SCHEDULE, "seed": "s0"}, CPU)
    torch.nn.init.zeros_(run.objective.head.weight)
    torch.nn.init.normal_(run.objective.head.bias, generator=torch.Generator().manual_seed(0))
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 1.5
    drawn = run.objective.draw(3, torch.Generator().manual_seed(2))
    says = functional.log_softmax(run.objective.head.bias.view(3, 4), dim=1)
    wanted = []
    for image, order in zip(images, drawn.tolist(), strict=True):
        for place in order[-10:]:  # ceil(0.6 * 16) are hidden
            row, column = divmod(place, 4)
            patch = image[:, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
            for channel in range(3):
                shares = torch.histc(patch[channel].clamp(-2, 2), bins=4, min=-2, max=2) / 64
                wanted.append(-(shares * says[channel]).sum())
    found = run.objective(images, drawn)["loss"]
    assert found.item() == pytest.approx(torch.stack(wanted).mean().item(), rel=1e-5)

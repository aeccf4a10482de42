"""The Python API: the page that documents it is run, block by block."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mimcore
from mimcore.errors import UserError

PAGE = Path(__file__).resolve().parents[1] / "docs/api.md"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes that colour alone tells apart."""
    root = tmp_path_factory.mktemp("notebook")
    random = np.random.default_rng(0)
    for name, tint in (("a", (200, 40, 40)), ("b", (40, 40, 200))):
        (root / "photos" / name).mkdir(parents=True)
        for number in range(40):
            pixels = np.clip(random.normal(tint, 20, (40, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / f"photos/{name}/{number}.png")
    return root


def test_the_page_runs_from_top_to_bottom(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    headline = next(iter(names["accuracy"].values()))
    assert headline > 0.9, "two colours are easy to tell apart"
    assert set(names["run"].metrics["metrics"]) == {"val_loss", "seen_loss", "train_loss"}
    definition = names["second"].metrics["definition"]
    assert (definition["use"], definition["after"]) == ("weights", names["declared"])
    # The transform is what validation sees: the whole of a square image, resampled and normalised.
    image = names["run"].transform("photos/a/0.png")
    assert image.shape == (3, 32, 32)
    red = (200 / 255 - 0.485) / 0.229
    torch.testing.assert_close(image[0].mean(), torch.tensor(red), atol=0.05, rtol=0)


def test_a_mistake_is_a_sentence(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    with pytest.raises(UserError, match=r"execution.wokers: unknown option; did you mean 'workers'"):
        mimcore.pretrain("photos", "runs/x", schedule={}, val_images=20, execution={"wokers": 1})
    with pytest.raises(UserError, match=r"model.json"):
        mimcore.load("runs/none")


def test_the_package_alone_loads_no_torch() -> None:
    code = "import mimcore, sys; print('torch' in sys.modules or 'pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PAGE.parents[1])
    assert done.stdout.strip() == "False"

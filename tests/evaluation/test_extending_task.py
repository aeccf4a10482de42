"""The task of docs/extending.md, taken from the page and run as a module that a study names."""

import re
from pathlib import Path
from types import ModuleType

import pytest
from dense import dense_scenes
from fakes import context, encoder

from mimcore import registry
from mimcore.evaluation.task import Data

PAGE = Path(__file__).resolve().parents[2] / "docs/extending.md"


@pytest.fixture
def counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example, in a folder of its own that is looked for modules too."""
    section = PAGE.read_text(encoding="utf-8").partition("\n## A task\n")[2].partition("\n## ")[0]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code
    assert code[1].count("\n") < 60
    file = tmp_path / "counting.py"
    file.write_text(code[1], encoding="utf-8")
    assert registry._defines(file, registry.ENTRY["task"])
    module = ModuleType("counting")
    exec(compile(code[1], str(file), "exec"), module.__dict__)
    return module


def test_the_task_of_the_page_counts_better_than_chance(counting: ModuleType, tmp_path: Path) -> None:
    data = Data(dense_scenes(300, image_size=32), dense_scenes(100, image_size=32, split="val"))
    found = counting.evaluate(encoder(32, 8), counting.Config(pool="x"), data, context(tmp_path))["error"]
    true, seen = ([len(boxes) for boxes in part.rows["boxes"].to_pylist()] for part in (data.test, data.train))
    guess = sum(abs(count - sum(seen) / len(seen)) for count in true) / len(true)
    assert found.value < guess - 0.05
    assert 0 < found.standard_error < 0.2
    assert (next(iter(counting.METRICS)), counting.NEEDS, counting.PIXELS) == ("error", "boxes", False)

"""What can be reached of a package that is written here, and what is said of this one."""

import hashlib
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from mimcore import imports
from mimcore.errors import UserError
from mimcore.modules import STAGES, read_code, write_modules

PACKAGE = {
    "start": """
        import os, mimcore.head
        from mimcore import beside, errors
        from mimcore.inner.one import something
        from mimcore.inner import (
            two,
            three as third,
        )
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from mimcore.for_types import Type
        else:
            import mimcore.not_for_types
        if not TYPE_CHECKING:
            import mimcore.at_run_time
        def work():
            try:
                with open("x"):
                    from mimcore import within
            except OSError:
                import mimcore.after_failure
            match os.name:
                case "posix":
                    from mimcore import matched
        "mimcore.in_a_string"
        page = "page.html.j2"
    """,
    "within": "class Lazy:\n    async def work(self):\n        import mimcore.deep",
    "deep": "import mimcore.start",
    "inner/__init__": "",
    "inner/one": "from mimcore import inner",
    **dict.fromkeys(
        ("head", "beside", "errors", "inner/two", "inner/three", "not_for_types", "after_failure", "at_run_time"), ""
    ),
    **dict.fromkeys(("matched", "for_types", "in_a_string", "unreached"), ""),
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    root = tmp_path / "mimcore"
    for name, text in PACKAGE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        root.joinpath(f"{name}.py").write_text(textwrap.dedent(text))
    (root / "page.html.j2").write_text('{% include "style.css.j2" %}')
    (root / "style.css.j2").write_text("")
    (root / "another.html.j2").write_text("")
    monkeypatch.setattr(imports, "ROOT", tmp_path)
    imports.imports.cache_clear()
    yield root
    imports.imports.cache_clear()


def test_a_file_reaches_what_it_imports_wherever_it_does(package: Path) -> None:
    reached = {"start", "within", "deep", "head", "beside", "errors", "inner/one", "inner/two", "inner/three"}
    reached |= {"not_for_types", "at_run_time", "after_failure", "matched"}
    templates = {"mimcore/page.html.j2", "mimcore/style.css.j2"}
    assert imports.closure(["mimcore/start.py"]) == {f"mimcore/{name}.py" for name in reached} | templates
    assert imports.closure(["mimcore/unreached.py"]) == {"mimcore/unreached.py"}


def test_a_file_that_python_cannot_read_is_named_with_its_line(package: Path) -> None:
    (package / "head.py").write_text("import os\ndef work(:\n")
    with pytest.raises(UserError, match=r"^mimcore/head.py is not Python at line 2: invalid syntax; mend it\.$"):
        imports.closure(["mimcore/start.py"])


def test_what_is_said_is_the_digest_of_each_file_whatever_the_order_of_definitions(tmp_path: Path) -> None:
    code = read_code({"mae": "mae", "mae60": "mae"}, {"linear": "linear", "boxes": "detection"})
    others = {"objectives/mae.json", "objectives/mae60.json", "tasks/linear.json", "tasks/boxes.json"}
    assert code.keys() == {f"stages/{verb}.json" for verb in STAGES} | others | {"needs/boxes.json"}
    assert code.pop("needs/boxes.json") == {"mimcore/evaluation/detection.py: NEEDS": "boxes"}
    for files in code.values():
        assert files == {file: hashlib.sha256((imports.ROOT / file).read_bytes()).hexdigest() for file in files}
    assert code["objectives/mae60.json"] == code["objectives/mae.json"]
    write_modules(code, tmp_path / "one")
    write_modules(read_code({"mae60": "mae"}, {"linear": "linear"}), tmp_path / "other")
    for file in ("stages/pretrain.json", "objectives/mae60.json", "tasks/linear.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()
        assert list(json.loads((tmp_path / "one" / file).read_text())) == sorted(code[file])


def test_a_task_that_is_built_on_another_says_so() -> None:
    code = read_code({}, {"robustness": "robustness"})
    assert {"mimcore/evaluation/robustness.py", "mimcore/evaluation/finetune.py"} <= code[
        "tasks/robustness.json"
    ].keys()


def test_a_module_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"^there is no objective called 'simmin'; did you mean 'simmim'\?$"):
        read_code({"s": "simmin"}, {})

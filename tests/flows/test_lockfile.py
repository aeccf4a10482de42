"""``dvc.lock`` after one stage of it is replaced: what DVC itself writes, byte for byte."""

from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import dumps_yaml, modify_yaml, parse_yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flows import lockfile

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=120),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab.- ", min_size=1), inner, max_size=3),
    max_leaves=8,
)
names = st.from_regex(r"[a-z]{1,3}(@[a-z0-9-]{1,4})?", fullmatch=True)
stages = st.fixed_dictionaries(
    {
        "cmd": st.sampled_from(["python -m mimcore check", "a: b # c", "first\nsecond", "x" * 200]),
        "deps": st.lists(st.fixed_dictionaries({"path": st.text(min_size=1), "size": st.integers()}), max_size=2),
        "params": st.dictionaries(
            st.just("params.yaml"), st.dictionaries(st.text("ab."), values, max_size=3), max_size=1
        ),
    }
)


def of_dvc(file: Path, name: str, stage: Any) -> str:
    """What ``Lockfile.dump_stages`` of DVC leaves."""
    with modify_yaml(str(file)) as data:
        data["stages"].update({name: stage})
    return file.read_text(encoding="utf-8")


@settings(max_examples=60, deadline=None)
@given(before=st.dictionaries(names, stages, min_size=1, max_size=4), name=names, stage=stages)
def test_it_is_what_dvc_writes(tmp_path_factory: pytest.TempPathFactory, before: Any, name: str, stage: Any) -> None:
    file = tmp_path_factory.getbasetemp() / "any.lock"
    text = dumps_yaml({"schema": "2.0", "stages": before})
    file.write_text(text, encoding="utf-8")
    with modify_yaml(str(file)):
        pass
    assume(file.read_text(encoding="utf-8") == text)  # DVC itself may lose the last digit of a number
    found = lockfile.replace(text, dumps_yaml({"stages": {name: stage}}).removeprefix("stages:\n"))
    assert found is None or found == of_dvc(file, name, stage)


def test_the_lock_of_the_default_study_is_replaced_stage_by_stage(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "dvc.lock").read_text(encoding="utf-8")
    file = tmp_path / "dvc.lock"
    for name in ("collect", "pretrain@mae-tiny-n64-short-s0", "new@one"):
        file.write_text(text, encoding="utf-8")
        stage = {"cmd": "x", "params": {"params.yaml": {"rate": 1e-05, "large": 1e20, "none": None, "yes": "yes"}}}
        block = dumps_yaml({"stages": {name: stage}}).removeprefix("stages:\n")
        text = of_dvc(file, name, stage) if (found := lockfile.replace(text, block)) is None else found
        assert found == text == of_dvc(file, name, stage)


def test_what_is_read_of_a_stage_is_what_dvc_reads() -> None:
    text = (Path(__file__).parents[2] / "dvc.lock").read_text(encoding="utf-8")
    assert lockfile.plain(text)
    for name, stage in parse_yaml(text, "dvc.lock")["stages"].items():
        start, end = lockfile.span(text, f"  {name}:\n")
        assert parse_yaml(lockfile.HEAD + text[start:end], "dvc.lock")["stages"] == {name: stage}
    assert lockfile.span(text, "  of_nothing:\n") == (len(text), 0)


@pytest.mark.parametrize(
    "text",
    [
        "stages:\n  a:\n    cmd: x\n",
        "schema: '2.0'\nstages:\n  # mine\n  a:\n    cmd: x\n",
        "schema: '2.0'\nstages:\n<<<<<<< ours\n  a:\n    cmd: x\n",
        "schema: '2.0'\nstages:\n  a:\n    cmd: x\ndatasets: []\n",
        "schema: '2.0'\nstages:\n  a:\n    cm",
        "",
    ],
)
def test_what_dvc_has_not_written_is_left_to_dvc(text: str) -> None:
    assert lockfile.replace(text, "  a:\n    cmd: y\n") is None

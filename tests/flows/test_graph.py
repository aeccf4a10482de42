import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from scratch_checkout import Scratch

from flows.graph import Graph, mend
from mimcore.errors import UserError

LOG = logging.getLogger("test")


def test_the_order_has_what_is_needed_first(scratch: Callable[..., Scratch]) -> None:
    graph = Graph(scratch().root)
    order = list(graph.stages)
    assert sorted(order) == ["a", "b", "c", "d"]
    assert all(order.index(parent) < order.index(name) for name in order for parent in graph.parents[name])
    assert graph.parents["d"] == {"b", "c"}
    assert sorted(graph.wanted(["b"])) == ["a", "b"]
    with pytest.raises(UserError, match="did you mean"):
        graph.wanted(["aa"])


def test_what_is_stale_is_what_dvc_says(scratch: Callable[..., Scratch]) -> None:
    checkout = scratch()
    assert Graph(checkout.root).stale_ones("abcd") == set("abcd")
    checkout.repro()
    graph = Graph(checkout.root)
    assert graph.stale_ones(graph.stages) == set()
    (checkout.root / "out/b/data.txt").chmod(0o644)
    (checkout.root / "out/b/data.txt").write_text("spoilt")
    assert graph.stale_ones(graph.stages) == {"b", "d"}  # in the graph that was read before


def test_a_key_is_of_the_command_and_all_inputs(scratch: Callable[..., Scratch]) -> None:
    checkout = scratch()
    assert Graph(checkout.root).key("b") is None  # out/a is missing
    checkout.repro("a")
    graph = Graph(checkout.root)
    keys = {name: graph.key(name) for name in ("a", "b", "c")}
    assert len(set(keys.values())) == 3
    assert Graph(checkout.root).key("b") == keys["b"]
    (checkout.root / "out/a/data.txt").chmod(0o644)
    (checkout.root / "out/a/data.txt").write_text("other")
    assert Graph(checkout.root).key("b") != keys["b"]
    assert Graph(checkout.root).key("a") == keys["a"]


def test_a_label_is_the_verb_and_the_run(small_study: Scratch) -> None:
    text = (small_study.root / "dvc.yaml").read_text()
    commands = "python -m mimcore pretrain ${item.model} --params params.yaml"
    (small_study.root / "dvc.yaml").write_text(text.replace("python work.py ${item.model}", commands))
    graph = Graph(small_study.root)
    assert graph.stages["pretrain@tiny"].label == "pretrain tiny"
    assert graph.stages["pretrain@tiny"].verb == "pretrain"


def test_sizes_are_those_of_the_last_time_or_of_the_verb(small_study: Scratch) -> None:
    small_study.repro("pretrain@tiny")
    graph = Graph(small_study.root)
    size = (small_study.root / "out/tiny/data.txt").stat().st_size
    assert graph.output_bytes(["pretrain@tiny", "pretrain@small"]) == 2 * size


def test_what_a_killed_dvc_left_is_cleared(scratch: Callable[..., Scratch], caplog: pytest.LogCaptureFixture) -> None:
    checkout = scratch()
    checkout.repro("a")
    tmp = checkout.root / ".dvc/tmp"
    # The number of this process, which is no dvc: numbers are given anew.
    mine = {"pid": os.getpid(), "cmd": "/x/dvc/__main__.py --wait-for-lock repro --single-item b"}
    out = str(checkout.root / "out/b")
    (tmp / "rwlock").write_text(json.dumps({"write": {out: mine}, "read": {out: [mine]}}))
    (checkout.root / "dvc.lock").write_text("schema: '2.0'\nstages:\n  a:\n    cmd: [pyth")
    with caplog.at_level(logging.DEBUG):
        mend(checkout.root, LOG)
    assert {record.levelno for record in caplog.records if record.name == "test"} == {logging.DEBUG}
    checkout.repro()
    assert checkout.ran() == ["a", "b", "c", "d"] or checkout.ran() == ["a", "c", "b", "d"]  # a is restored, not run


def test_what_a_killed_stage_had_begun_is_removed(scratch: Callable[..., Scratch]) -> None:
    root, gone = scratch().root, subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    folder, other = root / "artifacts/runs", f"part-{os.getpid()}"
    for name in (f".a.part-{gone.pid}/deep", f".a.{other}/deep", "a/kept"):
        (folder / name).mkdir(parents=True)
    for file in (
        root / f".dvc.lock.part-{gone.pid}",
        root / f".dvc.lock.{other}",
        folder / f"a/.b.json.part-{gone.pid}",
    ):
        file.touch()
    mend(root, LOG)
    assert sorted(path.name for path in folder.iterdir()) == [f".a.{other}", "a"]
    assert [path.name for path in (folder / "a").iterdir()] == ["kept"]
    assert [path.name for path in root.glob(".dvc.lock.*")] == [f".dvc.lock.{other}"]


def test_a_list_of_files_in_use_that_was_cut_short_is_cleared(scratch: Callable[..., Scratch]) -> None:
    checkout = scratch()
    checkout.status()
    (checkout.root / ".dvc/tmp/rwlock").write_text('{"write": {"x"')
    mend(checkout.root, LOG)
    checkout.repro("a")


@pytest.mark.parametrize("cmd", [" ".join(sys.argv), "/some/__main__.py"], ids=["as started", "no arguments"])
def test_a_process_that_runs_keeps_its_files(cmd: str, scratch: Callable[..., Scratch]) -> None:
    checkout = scratch()
    checkout.status()
    mine = {"pid": os.getpid(), "cmd": cmd}
    before = {"write": {str(checkout.root / "out/b"): mine}, "read": {}}
    (checkout.root / ".dvc/tmp/rwlock").write_text(json.dumps(before))
    mend(checkout.root, LOG)
    assert json.loads((checkout.root / ".dvc/tmp/rwlock").read_text()) == before

"""Pricing: arithmetic that can be done by hand."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimcore.errors import UserError
from mimcore.plan.gpus import GPUS, peak
from mimcore.plan.price import Priced, on_gpu, total, totals, wall
from mimcore.plan.stale import spread
from mimcore.plan.table import clock, scaled, sentences
from mimcore.plan.work import Counted, Stage


def chain(*lengths):
    names = [f"s{i}" for i in range(len(lengths))]
    return [Stage("pretrain", name, (names[i - 1],) if i else ()) for i, name in enumerate(names)], dict(
        zip(names, lengths, strict=True)
    )


def test_a_gpu_takes_operations_over_its_peak_and_utilisation():
    counted = Counted(flops=989e12 * 3600, precision="bfloat16")
    assert on_gpu(counted, "h100", 0.5) == pytest.approx(7200)
    assert on_gpu(Counted(flops=67e12), "H100", 1.0) == pytest.approx(1)
    assert on_gpu(Counted(), "l4", 0.1) == 0


def test_an_unknown_gpu_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="h100"):
        peak("h10", "bfloat16")


def test_every_rate_is_in_the_units_of_the_table():
    for gpu in GPUS.values():
        assert 1.3 < gpu.bfloat16 / gpu.float32 < 40
        assert gpu.source


def test_money_is_hours_of_all_devices_whatever_their_number():
    priced = [Priced(Stage("pretrain", f"s{i}"), Counted(10, 1e12, 4), 1800.0) for i in range(4)]
    for devices in (1, 2, 4):
        whole = total(priced, devices, 3.0)
        assert whole.money == pytest.approx(6.0)
        assert whole.wall_seconds == pytest.approx(7200 / devices)
    assert totals(priced)["pretrain"].images == 40


def test_an_unknown_time_is_said_and_not_left_out():
    priced = [Priced(Stage("index", "a"), Counted(), None), Priced(Stage("fit", "b"), Counted(), 1.0)]
    whole = total(priced, 1, 1.0)
    assert (whole.device_seconds, whole.wall_seconds, whole.money) == (None, None, None)
    (sentence,) = sentences(whole, 1, "This machine", 1.0, priced[:1])
    assert "1 of 2 stages" in sentence
    assert "--probe" in sentence


def test_stages_in_a_chain_wait_for_each_other():
    stages, seconds = chain(3, 5, 7)
    assert wall(stages, seconds, 8) == 15


def test_the_longest_way_goes_first():
    stages, seconds = chain(1, 10)
    others = [Stage("floor", f"x{i}") for i in range(2)]
    assert wall([*others, *stages], seconds | {"x0": 5, "x1": 5}, 2) == 11


@given(st.lists(st.tuples(st.floats(0.1, 100), st.sets(st.integers(0, 8))), min_size=1, max_size=9), st.integers(1, 5))
def test_the_time_keeps_to_the_bounds_of_list_scheduling(work, devices):
    """Graham 1969: at least the longest way and the evenly shared work, at most their sum."""
    stages = [
        Stage("pretrain", f"s{i}", tuple(f"s{j}" for j in sorted(needed) if j < i))
        for i, (_, needed) in enumerate(work)
    ]
    seconds = {f"s{i}": length for i, (length, _) in enumerate(work)}
    ends = {}
    for stage in stages:
        ends[stage.name] = seconds[stage.name] + max((ends[name] for name in stage.after), default=0)
    longest, shared = max(ends.values()), sum(seconds.values()) / devices
    found = wall(stages, seconds, devices)
    assert max(longest, shared) <= found * (1 + 1e-9)
    assert found <= (longest + shared) * (1 + 1e-9)


def test_what_comes_after_a_changed_stage_is_priced_too():
    stages, _ = chain(1, 1, 1)
    other = Stage("floor", "other")
    assert [stage.name for stage in spread([other, *stages], {"s1"})] == ["s1", "s2"]
    assert spread(stages, set()) == []


def test_a_study_that_was_edited_and_is_checked_again_is_not_priced_whole():
    stages = [Stage("check", "check"), Stage("index", "index@p", ("check",)), Stage("pretrain", "r", ("index@p",))]
    assert [stage.name for stage in spread(stages, {"check"})] == ["check"]
    assert [stage.name for stage in spread(stages, {"check", "index@p"})] == ["check", "index@p", "r"]


def test_numbers_for_people():
    assert scaled(1.236e17) == "124 P"
    assert scaled(0) == "0 "
    assert [clock(s) for s in (42, 600, 7200, 400000)] == ["42 s", "10 min", "2 h", "4.63 days"]
    for a, b in itertools.pairwise((1.0, 95.0, 6000.0, 2e5)):
        assert clock(a).split()[1] != clock(b).split()[1]

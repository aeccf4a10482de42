"""Claims on tables whose truth is known: each kind must be able to say yes, no, and cannot tell."""

import zlib
from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy import stats

from mimcore.definition import problems, resolve
from mimcore.errors import UserError
from mimcore.scaling.claim import Claim, mistakes
from mimcore.scaling.claims import examine
from mimcore.scaling.fit import Config
from mimcore.scaling.table import Row

SIZES = {"n64": 64, "n512": 512, "n4096": 4096}
MODELS = {"tiny": 5e6, "small": 20e6}
LENGTHS = {"short": 1e5, "long": 4e5}


@dataclass
class World:
    """What the runs are made from: points of accuracy for each doubling, and so on."""

    per_data: float = 0.0
    #: What a doubling of the data adds to the points that a doubling of the data gives.
    bend: float = 0.0
    per_model: float = 0.0
    long: float = 0.0
    #: What being long is worth more for each doubling of the data.
    long_and_data: float = 0.0
    #: On the smallest subset; below 0 on the largest.
    rise: float = 0.0
    gap: float = 0.0
    objective: float = 0.0
    proxy: float = -1.0
    noise: float = 0.001
    seeds: int = 3
    salt: int = 0


def table(world, objectives=("mae", "simmim"), sizes=SIZES, models=MODELS):
    rows = []
    for objective in objectives:
        for model, parameters in models.items():
            for subset, images in sizes.items():
                for schedule, seen in LENGTHS.items():
                    for seed in range(world.seeds):
                        rows += run_rows(
                            world, objective, model, parameters, subset, images, schedule, seen, f"s{seed}"
                        )
    return rows


def run_rows(world, objective, model, parameters, subset, images, schedule, seen, seed, after=None):
    name = "-".join((objective, model, subset, schedule, seed)) + (f"-after-{after}" if after else "")
    rng = np.random.default_rng([world.salt, zlib.crc32(name.encode())])
    doublings, is_long = np.log2(images / 64), schedule == "long"
    score = 0.5 + world.per_data * doublings + world.bend * doublings**2 + world.per_model * np.log2(parameters / 5e6)
    score += is_long * (world.long + world.long_and_data * doublings)
    score += world.objective * (objective == "simmim") + world.noise * rng.normal()
    loss = 1 + world.proxy * (score - 0.5) + (0.1 * rng.normal() if not world.proxy else 0)
    first = 1 - doublings / 6
    rise = world.rise * (first if world.rise > 0 else first - 1) + world.noise * abs(rng.normal())
    values = {
        ("linear", "top1"): score,
        ("pretrain", "val_loss"): loss,
        ("pretrain", "val_loss_minimum"): loss - rise,
        ("pretrain", "seen_loss"): loss - (0.1 + world.gap * first + world.noise * rng.normal()),
    }
    for (task, metric), value in values.items():
        yield Row(
            kind="run",
            run=name,
            objective=objective,
            model=model,
            subset=subset,
            schedule=schedule,
            seed=seed,
            unique_images=images,
            images_seen=int(seen),
            encoder_params=int(parameters),
            flops=1.0,
            task=task,
            metric=metric,
            value=float(value),
            standard_error=None,
            higher_is_better=task == "linear",
            headline=metric in ("top1", "val_loss"),
        )


def judge(rows, **claim):
    claim = {"words": "As claimed.", "measure": "linear/top1", "at": {"objective": "mae"}, **claim}
    return examine({"it": resolve(Claim, claim, "it")}, rows, 0.95, 300, 0)


def verdict(world, **claim):
    (one,) = judge(table(world), **claim)
    return one["verdict"]


OBJECTIVES = {"between": ["mae", "simmim"], "at": {}}
#: The kind and its options; worlds in which it holds and in which the opposite does.
CASES = [
    ({"kind": "improves_with_data"}, World(per_data=0.01), World(per_data=-0.01)),
    ({"kind": "improves_with_data", "measure": "pretrain/val_loss"}, World(per_data=0.01), World(per_data=-0.01)),
    ({"kind": "improves_with_data", "margin": 0.05}, World(per_data=0.01), World(per_data=0.005)),
    ({"kind": "improves_with_data", "margin": "10 %"}, World(per_data=0.01), World(per_data=0.005)),
    ({"kind": "improves_with_data", "between": ["n64", "n512"]}, World(per_data=0.02), World(per_data=-0.02)),
    ({"kind": "improves_with_model"}, World(per_model=0.02), World(per_model=-0.02)),
    ({"kind": "improves_with_length"}, World(long=0.02), World(long=-0.02)),
    ({"kind": "better", **OBJECTIVES}, World(objective=0.02), World(objective=-0.02)),
    ({"kind": "better", "between": ["short", {"schedule": "long"}]}, World(long=0.02), World(long=-0.02)),
    ({"kind": "equivalent", "margin": 0.01, **OBJECTIVES}, World(), World(objective=0.03)),
    ({"kind": "equivalent", "margin": "2 %", **OBJECTIVES}, World(), World(objective=-0.03)),
    ({"kind": "gain_shrinks_with_data"}, World(per_data=0.03, bend=-0.003), World(per_data=0.03, bend=0.003)),
    (
        {"kind": "gain_shrinks_with_data", "between": ["short", "long"]},
        World(long_and_data=-0.01),
        World(long_and_data=0.01),
    ),
    (
        {"kind": "gain_grows_with_data", "between": ["short", "long"]},
        World(long_and_data=0.01),
        World(long_and_data=-0.01),
    ),
    (
        {"kind": "gain_grows_with_length", "between": ["n64", "n4096"]},
        World(long_and_data=0.01),
        World(long_and_data=-0.01),
    ),
    ({"kind": "overfits"}, World(rise=0.05), World(rise=-0.05)),
    ({"kind": "overfits", "detector": "rise", "margin": "1 %"}, World(rise=0.05), World()),
    ({"kind": "overfits", "detector": "gap"}, World(gap=0.05), World(gap=-0.05)),
    ({"kind": "overfits", "detector": "length"}, World(long=-0.02), World(long=0.02)),
    ({"kind": "rank_correlated", "margin": 0.5}, World(per_data=0.02), World(per_data=0.02, proxy=1.0)),
]


@pytest.mark.parametrize(
    ("claim", "holds", "fails"), CASES, ids=lambda case: case.get("kind") if isinstance(case, dict) else ""
)
def test_each_kind_says_yes_and_no(claim, holds, fails):
    assert verdict(holds, **claim) == "supported"
    assert verdict(fails, **claim) == "not supported"


@pytest.mark.parametrize(
    ("claim", "holds", "fails"), CASES, ids=lambda case: case.get("kind") if isinstance(case, dict) else ""
)
def test_each_kind_can_be_at_a_loss(claim, holds, fails):
    """Noise far above the effect, in ten worlds: at 95 %, one in twenty may be taken for an effect."""
    correlated = claim["kind"] == "rank_correlated"
    claim = {**claim, "margin": 0.0} if correlated else claim
    world = World(noise=0.1, proxy=0.0) if correlated else replace(holds, noise=0.5)
    verdicts = [verdict(replace(world, salt=salt), **claim) for salt in range(10)]
    assert verdicts.count("cannot tell") >= 7


def test_one_seed_cannot_tell_but_settings_may():
    world = World(per_data=0.02, seeds=1)
    (one,) = judge(table(world), kind="improves_with_data")
    assert (one["verdict"], one["low"]) == ("cannot tell", None)
    assert "one seed: no interval" in one["sentence"]
    (one,) = judge(table(world), kind="improves_with_data", over="settings")
    assert (one["verdict"], one["count"]) == ("supported", 4)
    assert "4 settings" in one["sentence"]


def test_the_interval_is_a_paired_t_test_of_the_mean_over_settings():
    rows = table(World(per_data=0.01, noise=0.01), objectives=("mae",))
    values = {row.run: row.value for row in rows if row.metric == "top1"}
    gains = [
        np.mean([values[f"mae-{m}-n4096-{t}-s{s}"] - values[f"mae-{m}-n64-{t}-s{s}"] for m in MODELS for t in LENGTHS])
        for s in range(3)
    ]
    (one,) = judge(rows, kind="improves_with_data")
    expected = stats.ttest_1samp(gains, 0).confidence_interval(0.95)
    assert [one["low"], one["high"]] == pytest.approx(list(expected), rel=1e-6)


def test_an_equivalence_is_two_one_sided_tests():
    rows = table(World(noise=0.01), models={"tiny": 5e6}, sizes={"n64": 64})
    values = {row.run: row.value for row in rows if row.metric == "top1"}
    differences = np.array([values[f"simmim-tiny-n64-long-s{s}"] - values[f"mae-tiny-n64-long-s{s}"] for s in range(3)])
    claim = {"kind": "equivalent", "between": ["mae", "simmim"], "at": {"schedule": "long"}}
    for margin in (0.005, 0.01, 0.02, 0.04):
        (one,) = judge(rows, **claim, margin=margin)
        p_values = [
            stats.ttest_1samp(differences, -margin, alternative="greater").pvalue,
            stats.ttest_1samp(differences, margin, alternative="less").pvalue,
        ]
        assert (one["verdict"] == "supported") == (max(p_values) < 0.05)


def test_objectives_are_judged_by_themselves_unless_compared():
    found = judge(table(World(per_data=0.01)), kind="improves_with_data", at={})
    assert [one["objective"] for one in found] == ["mae", "simmim"]
    (one,) = judge(table(World(objective=0.1)), kind="better", between=["mae", "simmim"], at={"model": "largest"})
    assert one["objective"] is None
    assert one["settings"][0]["setting"] == "small n64 short"
    assert one["estimate"] == pytest.approx(0.1, abs=0.003)


def test_a_second_phase_is_compared_with_the_same_without_a_first():
    rows = []
    for seed in range(3):
        for after, lift in ((None, 0.0), ("mae-n512-short", 0.02), ("mae-n4096-short", 0.04)):
            rows += run_rows(World(objective=lift), "simmim", "tiny", 5e6, "n64", 64, "short", 1e5, f"s{seed}", after)
    (one,) = judge(rows, kind="better", between=[{"after": "none"}, {"after": "mae-*"}], at={"objective": "simmim"})
    assert one["verdict"] == "supported"
    assert one["estimate"] == pytest.approx(0.03, abs=0.002)
    (one,) = judge(
        rows,
        kind="better",
        between=[{"after": "mae-n512-short"}, {"after": "mae-n4096-short"}],
        at={"objective": "simmim"},
    )
    assert one["estimate"] == pytest.approx(0.02, abs=0.002)


def test_what_the_runs_lack_is_said():
    rows = table(World(), objectives=("mae",))
    (one,) = judge(rows, kind="improves_with_data", measure="segmentation/miou")
    assert one["sentence"] == "The results have no segmentation/miou."
    (one,) = judge(rows, kind="better", between=["mae", "dino"], at={})
    assert "'dino' is no name of this study" in one["sentence"]
    (one,) = judge(rows, kind="improves_with_data", at={"subset": "n64"})
    assert (one["verdict"], one["estimate"]) == ("cannot tell", None)
    assert "no runs that could show it" in one["sentence"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "improves"}, "it.kind"),
        ({"kind": "better"}, "'better' needs 'between'"),
        ({"kind": "equivalent", "between": ["a", "b"]}, "needs a margin above 0"),
        ({"kind": "better", "between": ["a", "b"], "margin": "much"}, "a percentage such as '1 %'"),
        ({"kind": "rank_correlated", "between": ["a", "b"], "measure": "linear/top1"}, "takes no 'between'"),
        ({"kind": "rank_correlated"}, "a 'measure' that is not 'against'"),
        ({"kind": "overfits", "at": {"colour": "red"}}, "it.at"),
        ({"kind": "overfits", "measure": "val_loss"}, "it.measure"),
    ],
)
def test_a_claim_that_makes_no_sense_is_refused(options, message):
    found = problems(Claim, {"words": "As claimed.", **options}, "it")
    assert any(message in one for one in found), found


def test_names_that_are_not_the_studys_are_pointed_out():
    known = {
        "objective": {"mae", "simmim"},
        "model": {"tiny"},
        "subset": {"n64", "n512"},
        "schedule": {"long"},
        "seed": {"s0"},
    }

    def said(**options):
        claim = resolve(Claim, {"words": "As claimed.", "kind": "better", **options}, "it")
        return list(mistakes(claim, known, {"linear": {"top1"}}, "it"))

    assert said(between=["n64", {"subset": "n*"}], at={"model": "largest"}) == []
    (one,) = said(between=["n64", "n5120"])
    assert one == "it.between: 'n5120' is no name of this study; did you mean 'n512'?."
    (one,) = said(between=["n64", "n512"], at={"model": ["tiny", "tine"]})
    assert "it.at.model: 'tine' is not in the study; did you mean 'tiny'?" in one
    (one,) = said(between=["n64", "n512"], measure="linear/top5")
    assert "has no metric 'top5'" in one
    (one,) = said(between=["mae", "simmim"])
    assert "losses of two objectives" in one
    assert said(between=["mae", "simmim"], measure="linear/top1") == []


def test_the_options_of_the_fit_take_claims():
    assert set(Config().claims) == {"more_data", "overfitting_gap", "overfitting_rise", "longer_training"}
    assert Config.model_validate({"claims": {}}).claims == {}
    with pytest.raises(UserError, match=r"fit\.claims\.mine\.words: required"):
        resolve(Config, {"claims": {"mine": {"kind": "overfits"}}}, "fit")


#: Sizes of a further pool, all of them larger than those of the first.
FURTHER = {"w8192": 8192, "w65536": 65536, "w524288": 524288}


def of_two_pools(world, far, above=0.0, **options):
    """Runs of one world on a pool ``near`` and of another on ``far``, whose scores and losses lie higher by ``above``."""
    rows = [replace(row, pool="near") for row in table(world, **options)]
    # The smallest subset of either pool is where its world begins.
    sizes = {name: images // 128 for name, images in FURTHER.items()}
    for row in table(far, **options, sizes=sizes):
        value = row.value + (above if row.metric in ("top1", "val_loss", "seen_loss", "val_loss_minimum") else 0.0)
        rows.append(replace(row, pool="far", value=value, unique_images=128 * row.unique_images))
    return rows


def without_pools(rows):
    return [replace(row, pool=None) for row in rows]


@pytest.mark.parametrize(
    ("claim", "above"),
    [
        ({"kind": "improves_with_data"}, 0.5),
        ({"kind": "improves_with_data", "margin": "1 %"}, 0.5),
        ({"kind": "improves_with_data", "measure": "pretrain/val_loss"}, -0.5),
        ({"kind": "better", "between": [{"subset": "smallest"}, {"subset": "largest"}]}, 0.5),
        ({"kind": "rank_correlated", "margin": 0.3}, -0.5),
    ],
    ids=["score", "share", "loss", "ends", "rank"],
)
def test_what_a_pool_lies_higher_by_is_no_gain_of_more_images(claim, above):
    """On either pool more images do harm, or the loss says the opposite of the task; all runs together look the other way round."""
    world = World(per_data=-0.01, proxy=1.0) if claim["kind"] == "rank_correlated" else World(per_data=-0.01)
    rows = of_two_pools(world, replace(world, salt=1), above)
    if claim["kind"] == "rank_correlated":
        # The further pool is better in the task and lower in the loss.
        rows = [replace(r, value=r.value + 1) if (r.pool, r.metric) == ("far", "top1") else r for r in rows]
    (wrong,) = judge(without_pools(rows), **claim)
    assert wrong["verdict"] == "supported"
    assert "pool" not in wrong
    right = judge(rows, **claim)
    assert [(one["pool"], one["verdict"]) for one in right] == [("far", "not supported"), ("near", "not supported")]


@pytest.mark.parametrize(("claim", "holds", "fails"), CASES)
def test_a_pool_is_judged_as_if_the_other_were_not_there(claim, holds, fails):
    """Verdict, interval, sentence and settings of each pool are those of a study that has this pool alone."""
    rows = of_two_pools(holds, replace(fails, salt=2), above=0.7)
    found = judge(rows, **claim)
    named = any(side == "n64" for side in claim.get("between", ()))
    assert [one["pool"] for one in found] == (["near"] if named else ["far", "near"])
    for one in found:
        (alone,) = judge([row for row in rows if row.pool == one["pool"]], **claim)
        assert one == {**alone, "pool": one["pool"]}


def test_one_pool_is_as_none():
    rows = table(World(per_data=0.01))
    claim = {"kind": "improves_with_data", "at": {}}
    assert judge([replace(row, pool="near") for row in rows], **claim) == judge(rows, **claim)


def test_a_claim_may_be_of_one_pool():
    rows = of_two_pools(World(per_data=0.02), World(per_data=-0.02))
    claim = {"kind": "improves_with_data"}
    for pool, verdict_of_it in (("near", "supported"), ("far", "not supported"), ("n*", "supported")):
        (one,) = judge(rows, **claim, at={"objective": "mae", "pool": pool})
        assert (one["pool"][0], one["verdict"]) == (pool[0], verdict_of_it)
    # The words are of the pool: its own largest subset, not that of the study.
    (one,) = judge(rows, kind="better", between=["mae", "simmim"], at={"pool": "near", "subset": "largest"})
    assert {where["setting"].split()[1] for where in one["settings"]} == {"n4096"}
    found = judge(rows, kind="better", between=["mae", "simmim"], at={"subset": "smallest"})
    assert [{where["setting"].split()[1] for where in one["settings"]} for one in found] == [{"w8192"}, {"n64"}]


def test_two_subsets_of_two_pools_are_compared_where_a_claim_names_them_but_not_their_losses():
    rows = of_two_pools(World(), World(salt=1), above=0.03)
    scores = {row.run: row.value for row in rows if row.metric == "top1"}
    gains = [
        np.mean(
            [scores[f"mae-{m}-w8192-{t}-s{s}"] - scores[f"mae-{m}-n4096-{t}-s{s}"] for m in MODELS for t in LENGTHS]
        )
        for s in range(3)
    ]
    claim = {"kind": "better", "between": ["n4096", "w8192"]}
    (one,) = judge(rows, **claim)
    assert (one["verdict"], "pool" in one) == ("supported", False)
    assert one["estimate"] == pytest.approx(np.mean(gains))
    for kind in ("better", "improves_with_data", "gain_grows_with_length"):
        (one,) = judge(rows, kind=kind, between=["n4096", "w8192"], measure="pretrain/val_loss")
        assert (one["verdict"], one["estimate"]) == ("cannot tell", None)
        assert one["sentence"].startswith("The two are of different pools (near and far), whose losses may be on other")
        assert judge(without_pools(rows), kind=kind, between=["n4096", "w8192"], measure="pretrain/val_loss")[0][
            "count"
        ]
    # How far a loss rises above its own lowest has nothing to do with other images.
    (one,) = judge(rows, kind="overfits", between=["n64", "w8192"], measure="pretrain/val_loss")
    assert one["estimate"] is not None


def test_pools_that_cannot_tell_are_named():
    rows = of_two_pools(World(per_data=0.02), World())
    claim = {"kind": "improves_with_data"}
    (one,) = judge([row for row in rows if row.subset in (*SIZES, "w8192")], **claim)
    assert (one["pool"], one["verdict"]) == ("near", "supported")
    assert one["sentence"].endswith(" Pool far cannot tell: it has no runs that could show it.")
    (one,) = judge([row for row in rows if row.subset in ("n64", "w8192")], **claim)
    assert (one["verdict"], one["estimate"], "pool" in one) == ("cannot tell", None, False)
    assert one["sentence"] == (
        "The study has no runs that could show it: none that differ in what is compared alone. Runs of different pools (far and "
        "near) are not compared with each other."
    )
    (one,) = judge(rows, **claim, measure="segmentation/miou")
    assert one["sentence"] == "The results have no segmentation/miou."
    (one,) = judge(rows, kind="better", between=["n64", "n5120"])
    assert "'n5120' is no name of this study" in one["sentence"]


def test_a_pool_is_a_condition_and_no_side():
    between = {"words": "As claimed.", "kind": "better", "between": [{"pool": "near"}, {"pool": "far"}]}
    (one,) = problems(Claim, between, "it")
    assert "'between' takes no pool; name the two subsets that are compared" in one
    claim = {"words": "As claimed.", "kind": "improves_with_data", "at": {"pool": "nera"}}
    known = {"subset": {"near", "n64"}, "pool": {"near", "far"}}
    (one,) = mistakes(resolve(Claim, claim, "it"), known, {}, "it")
    assert one == "it.at.pool: 'nera' is not in the study; did you mean 'near'?"
    # A subset may be called as its pool.
    claim = {"words": "As claimed.", "kind": "better", "between": ["n64", "near"]}
    assert list(mistakes(resolve(Claim, claim, "it"), known, {}, "it")) == []
    with pytest.raises(UserError, match=r"claims\.mine\.at\.pool: 'pools: alike' takes all pools for one"):
        claim = {"words": "As claimed.", "kind": "improves_with_data", "at": {"pool": "near"}}
        resolve(Config, {"pools": "alike", "claims": {"mine": claim}}, "fit")

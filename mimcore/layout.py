"""Where artifacts lie, below the root of a checkout. ``dvc.yaml`` says the same, and a test compares them."""

from pathlib import Path

ARTIFACTS = Path("artifacts")
SCRATCH = Path(".mimcore")
RESULTS = ARTIFACTS / "results"
FIT = ARTIFACTS / "fit"
REPORT = ARTIFACTS / "report"
CHECK = ARTIFACTS / "check.json"
#: What ``modules`` says of each objective and task.
MODULES = ARTIFACTS / "modules"
#: Forecasts of runs that were not made yet; committed to git, as no result may change them.
FORECASTS = Path("forecasts.json")
#: Runs that were finished elsewhere; committed to git, as no stage makes them.
IMPORTED = Path("imported.json")


def listing(pool: str) -> Path:
    """The pinned snapshot of a pool, committed to git."""
    return Path("listings") / f"{pool}.json"


def index(pool: str) -> Path:
    """Folder of a pool's index."""
    return ARTIFACTS / "index" / pool


def subset(name: str, seed: str) -> Path:
    """Folder of a subset manifest."""
    return ARTIFACTS / "subsets" / f"{name}-{seed}"


def look(name: str, seed: str) -> Path:
    """Folder of the page that shows a subset; no artifact, and nobody's input."""
    return Path("looks") / f"{name}-{seed}"


def examples(name: str) -> Path:
    """Folder of the images that a task, or the features of probes, train and test on."""
    return ARTIFACTS / "examples" / name


def features(of: str, name: str) -> Path:
    """Folder of frozen features of a run or, by the name of a model, of that model untrained and of raw pixels."""
    return ARTIFACTS / "features" / of / name


def prepared(name: str) -> Path:
    """Folder of what an objective learned of a subset: OBJECTIVE-SUBSET-SEED, or the name of a run beside the grid."""
    return ARTIFACTS / "prepared" / name


def run(name: str) -> Path:
    """Folder of a run artifact."""
    return ARTIFACTS / "runs" / name


def evaluation(run_name: str, task: str) -> Path:
    """Folder of what a task or probe says of a run."""
    return ARTIFACTS / "evals" / run_name / task


def floor(model: str, task: str) -> Path:
    """Folder of what a task or probe says of an untrained model and of raw pixels."""
    return ARTIFACTS / "floors" / model / task


def provenance(artifact: Path) -> Path:
    """The provenance record of an artifact."""
    return ARTIFACTS / "provenance" / artifact.relative_to(ARTIFACTS).with_suffix("").with_name(f"{artifact.stem}.json")

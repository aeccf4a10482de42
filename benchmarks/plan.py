"""What `mimcore plan --probe` promises of a study beside what `dvc repro` takes for it, in a fresh clone of the last commit.

python benchmarks/plan.py                                # the default study, ten minutes on 2 cores
python benchmarks/plan.py --study studies/xie2023/mini.yaml

Nothing else should run meanwhile. The clone has no cache: every stage runs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]


def run(folder: Path, *arguments: str) -> float:
    """Seconds of a Python module's command in a checkout."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", *arguments], cwd=folder, env=os.environ | {"PYTHONPATH": ""}, check=True)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, help="a study file; by default that of params.yaml")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        clone = Path(scratch, "clone")
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        if options.study is not None:
            run(clone, "mimcore", "use", str(options.study))
        probing = run(clone, "mimcore", "plan", "--probe", "--all", "--json", "plan.json")
        plan = json.loads((clone / "plan.json").read_text(encoding="utf-8"))
        taken = run(clone, "dvc", "repro", "--quiet")
    seconds = {"plan": plan["total"]["wall_seconds"], "dvc repro": taken, "the probe itself": probing}
    rows: list[dict[str, Any]] = [
        {"benchmark": "plan", "setting": plan["study"], "implementation": name, "value": value, "unit": "s"}
        for name, value in seconds.items()
    ]
    table = Table("study", "what", "seconds", "of dvc repro")
    for row in rows:
        table.add_row(row["setting"], row["implementation"], f"{row['value']:.0f}", f"{row['value'] / taken:.2f}")
    Console().print(table)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_files_section_is_current() -> None:
    listed = set(re.search(r"## Files\n+```\n(.*?)```", README, re.DOTALL)[1].splitlines())  # type: ignore[index]
    paths = {line.split()[0] for line in listed if line}
    assert all((ROOT / path).exists() for path in paths), paths
    rooms = {f"mimcore/{p.name}/" for p in (ROOT / "mimcore").iterdir() if p.is_dir() and not p.name.startswith("_")}
    assert rooms <= paths


def test_relative_links_and_pictures_exist() -> None:
    for file in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", file.read_text(encoding="utf-8")):
            assert (file.parent / target).exists(), (file.name, target)


@pytest.mark.parametrize("target", ["setup", "demo", "test", "check", "ui", "bench"])
def test_the_front_door_has_every_target(target: str) -> None:
    assert re.search(rf"^{target}:.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_studies_in_the_table_exist() -> None:
    named = set(re.findall(r"`(studies/[\w-]+\.yaml)`", README))
    assert named == {f"studies/{p.name}" for p in (ROOT / "studies").glob("*.yaml")}

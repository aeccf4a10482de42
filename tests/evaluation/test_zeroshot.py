from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import context, digit_data, encoder
from pydantic import ValidationError

from mimcore.errors import UserError
from mimcore.evaluation import frozen as disk
from mimcore.evaluation import prompts, zeroshot
from mimcore.evaluation.features import FeaturesConfig, extract
from mimcore.evaluation.frozen import Frozen, Split
from mimcore.evaluation.task import NotApplicable
from mimcore.models import encoder as encoders
from mimcore.models.text import Projection, TextOptions, TextTransformer, load_projection, load_text, save_towers
from mimcore.models.tokenizer import BytePairs

OPTIONS = TextOptions(
    tokenizer="bytes", context_length=24, text_width=32, text_depth=1, text_num_heads=2, projection_dim=8, pooling="gap"
)
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with an untrained text tower."""
    folder = tmp_path / "run"
    folder.mkdir()
    subject, tokenizer = encoder(), BytePairs([])
    encoders.save(subject, folder, {})
    torch.manual_seed(1)
    transformer = TextTransformer(tokenizer.vocab_size, tokenizer.end, OPTIONS)
    save_towers(folder, transformer, Projection("gap", subject.module, 8), tokenizer, OPTIONS)
    return folder


def features(run: Path, folder: Path, names: list[str] | None = NAMES) -> Frozen:
    """What is extracted of the run."""
    subject, data, config = encoders.load(run), digit_data(5, 60), FeaturesConfig(pool="x", batch_size=32)
    folder = folder / "features"
    folder.mkdir()
    arrays = {}
    for part, images in (("train", data.train), ("test", data.test)):
        batches = extract(subject, images, config, context(folder), load_projection(run))
        arrays |= disk.write_arrays(folder, f"run-{part}", len(images), batches)
    disk.write_rows(
        folder,
        {"train": data.train.rows, "test": data.test.rows},
        {"classes": names, "box_classes": None, "arrays": arrays},
    )
    return disk.read(folder, "run")


def test_projected_features_are_what_the_projection_gives(run: Path, tmp_path: Path) -> None:
    subject, found = encoders.load(run), features(run, tmp_path).test
    assert set(found.arrays) == {"mean", "cls", "projected"}
    pixels = torch.from_numpy(digit_data(5, 60).test.get(np.arange(60)))
    with torch.no_grad():
        expected = load_projection(run)(subject, subject.normalize(pixels))
    np.testing.assert_allclose(found.arrays["projected"], expected.numpy(), atol=1e-5)


def test_an_image_is_of_the_class_whose_prompts_lie_nearest(run: Path, tmp_path: Path) -> None:
    data = features(run, tmp_path)
    templates = ("a {}.", "many of {}", "{}!")
    found = zeroshot.probe(data, zeroshot.Config(features="x", templates=templates), context(tmp_path, run=run))
    tower = load_text(run)
    classes = []
    for name in NAMES:
        vectors = [tower.encode([template.format(name)])[0].double().numpy() for template in templates]
        assert all(np.linalg.norm(vector) == pytest.approx(1, abs=1e-5) for vector in vectors)
        middle = sum(vectors) / 3
        classes.append(middle / np.linalg.norm(middle))
    ranked = np.argsort(-(data.test.arrays["projected"].astype(float) @ np.array(classes).T), axis=1)
    labels = np.array(data.test.rows["label"])
    assert found["top1"].value == pytest.approx(np.mean(ranked[:, 0] == labels))
    assert found["top5"].value == pytest.approx(np.mean((ranked[:, :5] == labels[:, None]).any(1)))


def test_vectors_that_name_the_classes_are_all_right(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = features(run, tmp_path)
    vectors = load_text(run).encode([f"the {name}" for name in NAMES]).numpy()
    test = Split(data.test.rows, {"projected": vectors[np.array(data.test.rows["label"])]})
    config = zeroshot.Config(features="x", templates=("the {}",))
    monkeypatch.setattr(prompts, "BATCH", 3)
    found = zeroshot.probe(Frozen(data.train, test, NAMES), config, context(tmp_path, run=run))
    assert (found["top1"].value, found["top5"].value) == (1.0, 1.0)


def test_a_run_without_a_text_tower_is_not_asked(run: Path, tmp_path: Path) -> None:
    data, config = features(run, tmp_path), zeroshot.Config(features="x")
    with pytest.raises(NotApplicable, match="no text tower"):
        zeroshot.probe(data, config, context(tmp_path))
    (run / "text.json").unlink()
    with pytest.raises(NotApplicable, match="no text tower"):
        zeroshot.probe(data, config, context(tmp_path, run=run))


def test_names_and_templates_are_checked(run: Path, tmp_path: Path) -> None:
    data = features(run, tmp_path, None)
    with pytest.raises(UserError, match=r"tasks\.t\.names: the pool does not name its classes"):
        zeroshot.probe(data, zeroshot.Config(features="x"), context(tmp_path, run=run))
    with pytest.raises(UserError, match=r"tasks\.t\.names: there are 2 names, and labels up to 9"):
        zeroshot.probe(data, zeroshot.Config(features="x", names=("a", "b")), context(tmp_path, run=run))
    for wrong in ((), ("a photo",), ("{} and {}",)):
        with pytest.raises(ValidationError, match=r"each must have '\{\}' once"):
            zeroshot.Config(features="x", templates=wrong)

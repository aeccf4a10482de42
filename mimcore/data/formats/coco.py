"""A folder of images with COCO annotation files: boxes, classes, areas, crowds and instance masks.

See https://cocodataset.org/#format-data. Categories become classes 0, 1, ... in the order of their ids.
"""

import hashlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal

from faster_coco_eval.core import mask as coco_mask

from mimcore.data.pool import Classes, Shard, ShardIndex, SplitConfig, files_shard
from mimcore.data.rows import Rows
from mimcore.errors import UserError


class Config(SplitConfig):
    """Options of a COCO pool; ``train`` and ``val`` are annotation files."""

    format: Literal["coco"] = "coco"
    train: str = "instances_train.json"
    val: str | None = "instances_val.json"
    #: Folder that the file names of the annotation files count from.
    images: str = "images"


def list_shards(config: Config, root: Path) -> list[Shard]:
    """Every annotation file, with the images that it names."""
    found = []
    for name in _files(config):
        content = _read(root, name)
        shard = files_shard(name, [root / config.images / image["file_name"] for image in content["images"]])
        # All of it counts: an edit of one box keeps the length and both ends.
        digest = hashlib.sha256((root / name).read_bytes()).hexdigest()[:16]
        found.append(shard._replace(etag=f"{shard.etag}-{digest}"))
    return found


def index_shard(config: Config, root: Path, shard: Shard) -> ShardIndex:
    """Look at every image that an annotation file names, in its order.

    Raises:
        UserError: the file is damaged, or its categories are not those of the training split.
    """
    content = _read(root, shard.name)
    categories = _categories(content)
    if categories != _categories(_read(root, config.train)):
        raise UserError(f"{root / shard.name}: its categories are not those of {config.train}; make them the same.")
    contiguous = {category: place for place, category in enumerate(categories)}
    annotations = defaultdict(list)
    for annotation in content["annotations"]:
        annotations[annotation["image_id"]].append(annotation)
    has_masks = any(annotation.get("segmentation") for annotation in content["annotations"])
    rows = Rows(config.perceptual_hash)
    for image in content["images"]:
        name = f"{config.images}/{image['file_name']}"
        key = Path(image["file_name"]).with_suffix("").as_posix()
        try:
            fields = _fields(image, annotations[image["id"]], contiguous, has_masks)
            data = (root / name).read_bytes()
        except FileNotFoundError:
            rows.skip(key, name, "missing")
        except (KeyError, TypeError, ValueError) as error:
            rows.skip(key, name, f"its annotations are broken: {error!r}")
        except OSError as error:
            raise UserError(f"{root / name} cannot be read ({error.strerror}); mend or remove it.") from error
        else:
            size = (image["width"], image["height"])
            rows.add(key, name, 0, data, "val" if shard.name == config.val else "train", fields, size)
    return rows.finish(root / shard.name)


def classes(config: Config, root: Path) -> Classes:
    """Names of the categories."""
    return Classes(boxes=list(_categories(_read(root, config.train)).values()))


def _files(config: Config) -> list[str]:
    return [config.train] if config.val is None else [config.train, config.val]


def _read(root: Path, name: str) -> dict[str, Any]:
    path = root / name
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        missing = {"images", "annotations", "categories"} - set(content)
        if not missing:
            return dict(content)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; correct 'train' and 'val', the annotation files of the splits.") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); fetch it again.") from None
    raise UserError(f"{path} lacks {', '.join(sorted(missing))}; a COCO annotation file is needed.")


def _categories(content: dict[str, Any]) -> dict[int, str]:
    """Names by id, in the order of the ids."""
    return {item["id"]: str(item["name"]) for item in sorted(content["categories"], key=lambda item: item["id"])}


def _fields(
    image: dict[str, Any], annotations: list[dict[str, Any]], contiguous: dict[int, int], has_masks: bool
) -> dict[str, Any]:
    """The annotations of one image, in their order."""
    fields: dict[str, Any] = {
        "boxes": [_corners(*annotation["bbox"]) for annotation in annotations],
        "box_labels": [contiguous[annotation["category_id"]] for annotation in annotations],
        "box_areas": [annotation["area"] for annotation in annotations],
        "box_crowd": [bool(annotation.get("iscrowd", 0)) for annotation in annotations],
        "image_id": image["id"],
    }
    if has_masks:
        size = (image["height"], image["width"])
        fields["masks"] = [_run_lengths(annotation.get("segmentation"), *size) for annotation in annotations]
    return fields


def _corners(x: float, y: float, width: float, height: float) -> list[float]:
    return [x, y, x + width, y + height]


def _run_lengths(segmentation: Any, height: int, width: int) -> str | None:
    """Polygons or run lengths of either kind to compressed run lengths; None for none."""
    if not segmentation:
        return None
    if isinstance(segmentation, list):
        counts = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))["counts"]
    elif isinstance(segmentation["counts"], list):
        counts = coco_mask.frPyObjects(segmentation, height, width)["counts"]
    else:
        counts = segmentation["counts"]
    return counts.decode() if isinstance(counts, bytes) else str(counts)

"""A folder of images with COCO annotation files: boxes, classes, areas, crowds and instance masks, and captions.

See https://cocodataset.org/#format-data. Categories become classes 0, 1, ... in the order of their ids, and the tags of an
image are the names of those that it shows.
"""

import hashlib
import json
from collections import defaultdict
from pathlib import PurePosixPath
from typing import Any, Literal, Self

from faster_coco_eval.core import mask as coco_mask
from pydantic import model_validator

from mimcore.data.files import Files, MissingFileError
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
    #: Annotation files with the captions of either split, such as COCO's ``captions_train2017.json``; of an image that has
    #: several captions the one of the smallest id is taken.
    train_captions: str | None = None
    val_captions: str | None = None

    @model_validator(mode="after")
    def _captions_of_a_split(self) -> Self:
        if self.val is None and self.val_captions is not None:
            raise ValueError(
                "'val_captions' belongs to 'val', which is not given; put all captions into 'train_captions'"
            )
        return self


def list_shards(config: Config, files: Files) -> list[Shard]:
    """Every annotation file, with the images that it names."""
    found = []
    for name in _files(config):
        content = _read(files, name)
        shard = files_shard(name, files, [_image_name(config, image) for image in content["images"]])
        # All of it counts: an edit of one box keeps the length and both ends.
        captions = _captions_file(config, name)
        digest = hashlib.sha256(files.read(name) + (_read_captions(files, captions) if captions else b"")).hexdigest()[
            :16
        ]
        found.append(shard._replace(etag=f"{shard.etag}-{digest}"))
    return found


def index_shard(config: Config, files: Files, shard: Shard) -> ShardIndex:
    """Look at every image that an annotation file names, in its order.

    Raises:
        UserError: the file is damaged, or its categories are not those of the training split.
    """
    content = _read(files, shard.name)
    categories = _categories(content)
    if categories != _categories(_read(files, config.train)):
        raise UserError(
            f"{files.where(shard.name)}: its categories are not those of {config.train}; make them the same."
        )
    contiguous = {category: place for place, category in enumerate(categories)}
    annotations = defaultdict(list)
    for annotation in content["annotations"]:
        annotations[annotation["image_id"]].append(annotation)
    has_masks = any(annotation.get("segmentation") for annotation in content["annotations"])
    captions_file = _captions_file(config, shard.name)
    captions = _captions(files, captions_file) if captions_file else None
    rows = Rows(config.perceptual_hash)
    names = [_image_name(config, image) for image in content["images"]]
    for image, name, data in zip(content["images"], names, files.read_each(names), strict=True):
        key = PurePosixPath(image["file_name"]).with_suffix("").as_posix()
        try:
            fields = _fields(image, annotations[image["id"]], contiguous, has_masks)
            fields["tags"] = list(dict.fromkeys(categories[one["category_id"]] for one in annotations[image["id"]]))
            if captions is not None:
                fields["caption"] = captions.get(image["id"])
        except (KeyError, TypeError, ValueError) as error:
            rows.skip(key, name, f"its annotations are broken: {error!r}")
            continue
        if data is None:
            rows.skip(key, name, "missing")
            continue
        size = (image["width"], image["height"])
        rows.add(key, name, 0, data, "val" if shard.name == config.val else "train", fields, size)
    return rows.finish(files.where(shard.name))


def classes(config: Config, files: Files) -> Classes:
    """Names of the categories."""
    return Classes(boxes=list(_categories(_read(files, config.train)).values()))


def _files(config: Config) -> list[str]:
    return [config.train] if config.val is None else [config.train, config.val]


def _image_name(config: Config, image: dict[str, Any]) -> str:
    return f"{config.images}/{image['file_name']}"


def _read(files: Files, name: str) -> dict[str, Any]:
    path = files.where(name)
    try:
        content = json.loads(files.read(name))
        missing = {"images", "annotations", "categories"} - set(content)
        if not missing:
            return dict(content)
    except MissingFileError:
        raise UserError(f"{path} is missing; correct 'train' and 'val', the annotation files of the splits.") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); fetch it again.") from None
    raise UserError(f"{path} lacks {', '.join(sorted(missing))}; a COCO annotation file is needed.")


def _captions_file(config: Config, name: str) -> str | None:
    return config.val_captions if name == config.val else config.train_captions


def _read_captions(files: Files, name: str) -> bytes:
    try:
        return files.read(name)
    except MissingFileError:
        raise UserError(f"{files.where(name)} is missing; correct 'train_captions' and 'val_captions'.") from None


def _captions(files: Files, name: str) -> dict[int, str]:
    """The first caption of each image, by the image's id."""
    try:
        annotations = json.loads(_read_captions(files, name))["annotations"]
        ordered = sorted(annotations, key=lambda annotation: annotation["id"], reverse=True)
        return {annotation["image_id"]: str(annotation["caption"]).strip() for annotation in ordered}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{files.where(name)} holds no captions of COCO's form ({error!r}); fetch it again, or leave it out."
        ) from None


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

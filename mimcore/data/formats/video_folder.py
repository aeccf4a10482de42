"""A folder of videos, each a clip: with a subfolder for each class, or with lists of paths and labels (Kinetics' users have these).

The key of a clip is its path without the ending. A row has ``frames`` (how many the file has), ``seconds`` and ``fps``; no
more than the first frame is decoded for it. A listing has one entry for each folder, or for a thousand lines of a list.
"""

from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple, Self
from weakref import WeakKeyDictionary

from PIL import Image
from pydantic import model_validator

from mimcore import artifacts
from mimcore.data.classes import read_classes
from mimcore.data.decode import DecodeError
from mimcore.data.files import Files
from mimcore.data.formats._class_folders import FolderConfig, class_names, folders, split_and_label
from mimcore.data.formats._video_lists import is_list, read_list
from mimcore.data.header import BrokenImageError, Header, check_size
from mimcore.data.perceptual import hash_of
from mimcore.data.pool import Classes, Shard, ShardIndex, files_shard
from mimcore.data.rows import Rows
from mimcore.data.videos import VIDEO_SUFFIXES, open_video
from mimcore.errors import UserError

#: Lines of a list that are one entry of the listing, and are looked at by one process.
_LINES = 1000


class Config(FolderConfig):
    """Options of a pool of videos; ``train`` and ``val`` are both subfolders, or both lists."""

    format: Literal["video_folder"] = "video_folder"
    #: Folder that the relative paths of the lists count from.
    videos: str = "."
    #: JSON file with the names of the classes in the order of the labels; for lists.
    classes: str | None = None
    #: Whether all of each video is decoded while indexing, so that damage inside of one is found then and not in training.
    check_frames: bool = False

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        if self.val is not None and is_list(self.train) != is_list(self.val):
            raise ValueError("'train' and 'val' must be two subfolders, or two lists (.csv, .tsv, .txt)")
        if not is_list(self.train) and (self.classes is not None or self.videos != "."):
            raise ValueError("'classes' and 'videos' belong to lists; in folders the subfolders are the classes")
        return self


class _Clip(NamedTuple):
    """A video that the pool has."""

    name: str
    split: str
    label: int | None


class _Plan(NamedTuple):
    """Clips by the entry of the listing that they are in, and the names of the classes."""

    shards: dict[str, list[_Clip]]
    classes: list[str] | None


def list_shards(config: Config, files: Files) -> list[Shard]:
    """Every folder that has videos in it, or every part of a list."""
    return [_shard(files, name, clips) for name, clips in _plan(config, files).shards.items()]


def index_shard(config: Config, files: Files, shard: Shard) -> ShardIndex:
    """Look at every video of a folder or a part of a list, in their order.

    Raises:
        UserError: a video that a folder had is missing, or PyAV is not installed.
    """
    clips = _planned(config, files).shards.get(shard.name, [])
    if _shard(files, shard.name, clips) != shard:  # The files have changed in the life of this process.
        clips = _planned(config, files, anew=True).shards.get(shard.name, [])
    rows = Rows(config.perceptual_hash)
    for clip, data in zip(clips, files.read_each([clip.name for clip in clips]), strict=True):
        if data is not None:
            _add(rows, config, clip, data)
        elif is_list(config.train):
            rows.skip(_key(clip.name), clip.name, "missing")
        else:
            where = files.where(clip.name)
            raise UserError(f"{where} is missing since it was listed; bring it back, or pin the pool anew.")
    return rows.finish(files.where(shard.name))


def classes(config: Config, files: Files) -> Classes:
    """Names of the class folders, or of the labels of the lists."""
    return Classes(labels=_planned(config, files).classes)


def _add(rows: Rows, config: Config, clip: _Clip, data: bytes) -> None:
    fields = {} if clip.label is None else {"label": clip.label}
    try:
        with open_video(data) as video:
            first = video.read([0])[0]
            if config.check_frames:
                video.check()
            about: dict[str, Any] = {"frames": video.frames, "seconds": video.seconds, "fps": video.fps}
        size = Header(width=first.shape[1], height=first.shape[0])
        check_size(*size)
    except (BrokenImageError, DecodeError) as error:
        rows.skip(_key(clip.name), clip.name, str(error))
        return
    if config.perceptual_hash:
        about["phash"] = hash_of(Image.fromarray(first))
    rows.put(_key(clip.name), clip.name, 0, data, clip.split, size, {**fields, **about})


def _key(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def _shard(files: Files, name: str, clips: list[_Clip]) -> Shard:
    """An entry of the listing: its tag changes with the files, and with their labels."""
    shard = files_shard(name, files, [clip.name for clip in clips])
    return shard._replace(etag=artifacts.digest([shard.etag, [list(clip) for clip in clips]])[:16])


def _plan(config: Config, files: Files) -> _Plan:
    if is_list(config.train):
        return _of_lists(config, files)
    found = folders(config, files, VIDEO_SUFFIXES)
    names = class_names(config, files, found, "videos")
    shards = {}
    for folder, videos in found.items():
        split, label = split_and_label(config, folder, names)
        shards[folder] = [_Clip(name, split, label) for name in videos]
    return _Plan(shards, names)


#: For a process that looks at many shards of one pool.
_PLANS: WeakKeyDictionary[Files, tuple[Config, _Plan]] = WeakKeyDictionary()


def _planned(config: Config, files: Files, anew: bool = False) -> _Plan:
    known = _PLANS.get(files)
    if anew or known is None or known[0] != config:
        known = _PLANS[files] = config, _plan(config, files)
    return known[1]


def _of_lists(config: Config, files: Files) -> _Plan:
    lists = {name: read_list(files, name, config.videos) for name in (config.train, config.val) if name is not None}
    train = lists[str(config.train)]
    named = read_classes(files, config.classes) if config.classes else None
    # Labels that are not all numbers are names.
    if all(line.label.isdigit() for line in train):
        numbers = {line.label: int(line.label) for lines in lists.values() for line in lines if line.label.isdigit()}
    else:
        named = named or sorted({line.label for line in train})
        numbers = {name: number for number, name in enumerate(named)}
    shards = {}
    for name, lines in lists.items():
        if unknown := sorted({line.label for line in lines} - set(numbers)):
            known = config.classes or config.train
            raise UserError(f"{files.where(name)}: the label '{unknown[0]}' is not in {known}; correct either.")
        split = "val" if name == config.val else "train"
        for start in range(0, len(lines), _LINES):
            some = [_Clip(line.name, split, numbers[line.label]) for line in lines[start : start + _LINES]]
            shards[f"{name}:{start // _LINES:06d}"] = some
    return _Plan(shards, named)

"""Read a training clip of the task video out of a file: mimcore's random access beside decoders of the whole file.

python benchmarks/video.py [--clips 20] [--json FILE]

A photograph is panned over for ten seconds at 340 x 256 pixels, as of Kinetics, encoded by x264 with a keyframe every so many
frames. Of each clip 16 frames are wanted, 4 apart, from a start drawn at random. CPU time of one process; all ways give equal frames.
The whole file is what torchvision's ``read_video`` decoded, by PyAV too, until it was taken out.
"""

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_image

from mimcore.data.clips import read_frames

FRAMES, WIDTH, HEIGHT, COUNT, STRIDE = 250, 340, 256, 16, 4
#: The longest way from a keyframe to the next: x264's default, a keyframe a second, and one every half of it.
GROUPS = (250, 25, 12)


def write(path: Path, group: int) -> None:
    """Encode the video."""
    photograph = Image.fromarray(load_sample_image("china.jpg")).resize((640, 427))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": str(group), "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(FRAMES):
            left, top = round(300 * number / FRAMES), round(85 * (1 + np.sin(number / 20)))
            picture = photograph.crop((left, top, left + WIDTH, top + HEIGHT))
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())


def ours(path: Path, numbers: list[int]) -> np.ndarray:
    return read_frames(path.read_bytes(), numbers).transpose(0, 2, 3, 1)


def pyav_to_the_last(path: Path, numbers: list[int]) -> np.ndarray:
    """From the start to the last frame that is wanted; only those are converted."""
    found = []
    with av.open(io.BytesIO(path.read_bytes())) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in numbers:
                found.append(frame.to_ndarray(format="rgb24"))
            if number == numbers[-1]:
                return np.stack(found)
    raise ValueError("the video is too short")


def pyav_whole(path: Path, numbers: list[int]) -> np.ndarray:
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames)[numbers]


WAYS: dict[str, Callable[[Path, list[int]], np.ndarray]] = {
    "mimcore": ours,
    "PyAV, to the last frame": pyav_to_the_last,
    "PyAV, whole file": pyav_whole,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    rows = []
    table = Table("keyframe every", *(f"{way}, ms" for way in WAYS), *(f"{way} / mimcore" for way in list(WAYS)[1:]))
    with tempfile.TemporaryDirectory() as folder:
        for group in GROUPS:
            path = Path(folder) / f"{group}.mp4"
            write(path, group)
            starts = np.random.default_rng(0).integers(0, FRAMES - (COUNT - 1) * STRIDE, options.clips)
            spent = dict.fromkeys(WAYS, 0.0)
            for start in starts.tolist():  # in turns, so that a slow moment strikes all
                numbers = list(range(start, start + COUNT * STRIDE, STRIDE))
                found = {}
                for way, read in WAYS.items():
                    begun = time.process_time()
                    found[way] = read(path, numbers)
                    spent[way] += time.process_time() - begun
                if not all(np.array_equal(found["mimcore"], other) for other in found.values()):
                    raise AssertionError(f"the frames differ from {start} on, with a keyframe every {group}")
            setting = f"{COUNT} frames of {WIDTH}x{HEIGHT}, {STRIDE} apart, keyframe every {group}"
            each = {way: 1000 * seconds / len(starts) for way, seconds in spent.items()}
            for way, value in each.items():
                rows.append(
                    {
                        "benchmark": "video",
                        "setting": setting,
                        "implementation": way,
                        "value": value,
                        "unit": "ms of CPU",
                    }
                )
            ratios = [value / each["mimcore"] for way, value in each.items() if way != "mimcore"]
            table.add_row(str(group), *(f"{value:.1f}" for value in each.values()), *(f"{one:.2f}" for one in ratios))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    Console(width=160).print(table)


if __name__ == "__main__":
    main()

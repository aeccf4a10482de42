"""Features of all images of an index in a file, for the strategies that draw by them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import timm
import torch
from torch import Tensor

from mimcore import artifacts
from mimcore.data.loader import Images
from mimcore.errors import UserError
from mimcore.evaluation.features import ahead, batch_features
from mimcore.evaluation.task import Pooling
from mimcore.models import families
from mimcore.models.encoder import load

#: Rows of a row group of the file.
_GROUP = 1 << 14

#: Maps uint8 ``(B, 3, H, W)`` to float32 ``(B, D)``.
Extractor = Callable[[Tensor], Tensor]


def of_run(folder: Path, pooling: Pooling, device: torch.device) -> tuple[Extractor, int | tuple[int, int], int]:
    """The encoder of a run, the size of its input and its channels.

    Raises:
        UserError: there is no such run.
    """
    encoder = load(folder)
    encoder.module.to(device).eval()
    if pooling == "cls" and not families.has_class_token(encoder.module):
        raise UserError(f"{folder}: the encoder has no class token; use the pooling 'mean'.")
    return lambda images: batch_features(encoder, images, "float32")[pooling], encoder.image_size, encoder.channels


def of_timm(name: str, checkpoint: Path | None, device: torch.device) -> tuple[Extractor, int | tuple[int, int], int]:
    """An encoder of timm with its pretrained weights, the size of its input and its channels; pooled as the model does.

    Args:
        name: as in ``timm.list_pretrained()``.
        checkpoint: weights in a file; None fetches them.
        device: where it runs.

    Raises:
        UserError: timm knows no such model, or its weights cannot be had.
    """
    try:
        module = timm.create_model(
            name, pretrained=checkpoint is None, checkpoint_path=str(checkpoint or ""), num_classes=0
        )
    except Exception as error:  # timm and its hub raise RuntimeError, OSError, ValueError and many others
        raise UserError(
            f"timm's '{name}' cannot be made ({str(error).splitlines()[0]}); correct the name, or give its weights as a file."
        ) from error
    data = timm.data.resolve_model_data_config(module)
    mean, std = (torch.tensor(data[what], device=device).view(1, -1, 1, 1) for what in ("mean", "std"))
    channels, height, width = data["input_size"]
    module = module.to(device).eval()

    def extract(images: Tensor) -> Tensor:
        found: Tensor = module((images.float() / 255 - mean) / std)
        return found.float()

    return extract, (height, width), channels


def write_vectors(
    file: Path,
    extract: Extractor,
    images: Images,
    device: torch.device,
    batch_size: int = 256,
    workers: int = 1,
    progress: Callable[[int], None] = lambda done: None,
) -> str:
    """Write ``key`` and ``feature`` of each image, float32, to a Parquet file.

    Args:
        file: to write.
        extract: gives the features.
        images: N of them, at the size that ``extract`` takes.
        device: where ``extract`` runs.
        batch_size: images at a time.
        workers: threads that decode ahead.
        progress: told how many images are done.

    Returns:
        the SHA-256 of the file.

    Raises:
        UserError: an image cannot be read, or the disk is full.
    """
    keys = images.rows["key"]
    writer: pq.ParquetWriter | None = None
    held: list[pa.Array] = []
    first = done = 0
    batches = np.split(np.arange(len(images)), range(batch_size, len(images), batch_size))
    with artifacts.file(file) as part, torch.inference_mode():
        for batch in ahead(images.get, batches, workers):
            found = extract(torch.from_numpy(batch).to(device)).cpu().numpy()
            ends = (np.arange(len(found) + 1) * found.shape[1]).astype(np.int32)
            held.append(pa.ListArray.from_arrays(pa.array(ends), pa.array(found.ravel(), pa.float32())))
            done += len(found)
            progress(done)
            if done - first >= _GROUP or done == len(images):
                columns = {"key": keys.slice(first, done - first), "feature": pa.chunked_array(held)}
                table = pa.table(columns)
                writer = writer or pq.ParquetWriter(part, table.schema, compression="zstd")
                writer.write_table(table)
                held, first = [], done
        if writer is not None:
            writer.close()
    return artifacts.file_digest(file)

"""A bucket on a real S3 server, over HTTP, and checkouts that have it as their DVC remote."""

from pathlib import Path
from typing import Any

import boto3
import pytest
from scratch_cluster import checkout

PIPELINE = """
stages:
  draw:
    cmd: echo draw $PWD >> {log}; mkdir -p drawn && cp seed.txt drawn/a.txt && cp seed.txt drawn/b.txt
    deps: [seed.txt]
    outs: [drawn]
  count:
    cmd: echo count $PWD >> {log}; cat drawn/a.txt drawn/b.txt > counted.txt && echo '{{"lines":2}}' > metric.json
    deps: [drawn]
    outs: [counted.txt]
    metrics: [metric.json: {{cache: false}}]
"""
CONFIG = """
[core]
    analytics = false
    remote = store
['remote "store"']
    url = s3://{bucket}/study
    endpointurl = {endpoint}
"""


class Store:
    """A bucket, and checkouts that have it as their remote; ``log`` has a line for each stage that was executed."""

    def __init__(self, endpoint: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        self.endpoint, self.folder, self.log = endpoint, folder, folder / "executed"
        self.bucket = folder.name.replace("_", "-")
        self.client: Any = boto3.client("s3", endpoint_url=endpoint)
        self.client.create_bucket(Bucket=self.bucket)
        self.log.touch()

    def checkout(self, name: str) -> Path:
        config = CONFIG.format(bucket=self.bucket, endpoint=self.endpoint)
        return checkout(self.folder / name, PIPELINE.format(log=self.log), config)

    def executed(self) -> list[str]:
        return [line.split()[0] for line in self.log.read_text().splitlines()]

    def places(self) -> list[str]:
        """The folders that stages were executed in."""
        return [line.split()[1] for line in self.log.read_text().splitlines()]

    def objects(self) -> list[str]:
        return [item["Key"] for item in self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])]

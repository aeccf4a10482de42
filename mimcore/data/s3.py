"""Objects of S3 by name and byte range: retried where that helps, and one sentence where it does not.

Credentials, profile, region and endpoint are those of boto3 (``AWS_PROFILE``, ``AWS_ENDPOINT_URL_S3``, ``~/.aws``, ...);
nothing of them is an option of a pool, so that none gets into an artifact.
"""

import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from mimcore.data.paths import S3, S3Folder
from mimcore.errors import UserError

#: Attempts at one request, unless AWS_MAX_ATTEMPTS says otherwise: with the backoff of botocore's mode 'standard' about
#: a minute and a half of throttling is sat out.
MAX_ATTEMPTS = 10
#: Times that the body of one request may break off before it is given up.
MAX_BREAKS = 8
#: Seconds to wait after the first break at most, and after any: doubled each time, times a random number.
FIRST_WAIT, LONGEST_WAIT = 0.2, 20.0
#: Connections that one process holds at most.
CONNECTIONS = 64
#: Bytes that are taken off a connection at a time; so many are lost at most when it is reset.
_CHUNK = 1 << 16
#: Not the generator that augmentation may draw from.
_RANDOM = random.SystemRandom()
_MAKING = threading.Lock()

_DENIED = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "Forbidden", "403", "401"}
_KEYS = {
    *("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"),
    *("RequestTimeTooSkewed", "AuthFailure", "UnrecognizedClientException"),
}
_THROTTLED = {
    *("SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException", "429"),
    *("BandwidthLimitExceeded", "RequestThrottled", "ServiceUnavailable", "503"),
}
_ELSEWHERE = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"}


class Object(NamedTuple):
    """An object as a listing has it."""

    name: str
    bytes: int
    etag: str


class Piece(NamedTuple):
    """A range of an object's bytes, with what was learned of the object: its tag and its length."""

    data: bytes
    etag: str
    total: int


class MissingError(UserError):
    """There is no such object."""


class ReplacedError(UserError):
    """The object is not the one that it was."""


def list_objects(folder: S3Folder, prefix: str = "") -> Iterator[Object]:
    """Objects below a folder whose names begin with ``prefix``, in the order of their keys: a request per thousand.

    Raises:
        UserError: the bucket is missing, denied or cannot be reached.
    """
    with _sentences(folder.bucket, folder.key(prefix)):
        pages = client().get_paginator("list_objects_v2")
        start = folder.key("")
        for page in pages.paginate(Bucket=folder.bucket, Prefix=folder.key(prefix)):
            for item in page.get("Contents", ()):
                name = item["Key"].removeprefix(start)
                # Consoles make an empty object that stands for a folder.
                if name and not name.endswith("/"):
                    yield Object(name, int(item["Size"]), item["ETag"].strip('"'))


def head(folder: S3Folder, name: str) -> Object:
    """Tag and length of an object.

    Raises:
        MissingError: there is no such object.
        UserError: it cannot be had.
    """
    with _sentences(folder.bucket, folder.key(name)):
        found = client().head_object(Bucket=folder.bucket, Key=folder.key(name))
    return Object(name, int(found["ContentLength"]), found["ETag"].strip('"'))


def get(folder: S3Folder, name: str, start: int, stop: int, etag: str | None = None) -> Piece:
    """Bytes ``start`` .. ``stop - 1`` of an object, fewer where it ends before.

    A body that breaks off is taken up from where it broke, with random and growing waits, of the same object only.

    Args:
        folder: what ``name`` counts from.
        name: of the object.
        start: first byte.
        stop: behind the last byte; greater than ``start``.
        etag: the tag that the object must have; None takes it as it is.

    Raises:
        MissingError: there is no such object.
        ReplacedError: it has another tag, before or while it is read.
        UserError: it cannot be had: denied, throttled or broken off for too long, out of reach.
    """
    parts: list[bytes] = []
    place, total, breaks = start, None, 0
    while total is None or place < min(stop, total):
        try:
            with _sentences(folder.bucket, folder.key(name)):
                etag, total = _take(folder, name, place, stop, etag, parts.append)
            wanted = min(stop, total)
        except _BrokenOffError as error:
            etag, total, reason = error.etag, error.total, error.reason
            wanted = min(stop, total)
        else:
            reason = "fewer bytes came than were asked for"
        place = start + sum(map(len, parts))
        if place >= wanted:
            break
        breaks += 1
        if breaks > MAX_BREAKS:
            raise UserError(
                f"{S3}{folder.bucket}/{folder.key(name)}: the connection broke off {breaks} times while bytes {start} to"
                f" {stop} were read ({reason}); look at the network and the store, and run again."
            )
        time.sleep(_RANDOM.random() * min(FIRST_WAIT * 2 ** (breaks - 1), LONGEST_WAIT))
    assert etag is not None
    assert total is not None
    return Piece(parts[0] if len(parts) == 1 else b"".join(parts), etag, total)


class _BrokenOffError(Exception):
    def __init__(self, reason: str, etag: str, total: int) -> None:
        super().__init__(reason)
        self.reason, self.etag, self.total = reason, etag, total


def _take(
    folder: S3Folder, name: str, place: int, stop: int, etag: str | None, keep: Callable[[bytes], None]
) -> tuple[str, int]:
    """Ask once for a range and keep what comes of it; its tag and the length of the object."""
    from botocore.exceptions import ClientError, FlexibleChecksumError, HTTPClientError, IncompleteReadError
    from urllib3.exceptions import HTTPError

    told = {} if etag is None else {"IfMatch": f'"{etag}"'}
    try:
        answer = client().get_object(
            Bucket=folder.bucket, Key=folder.key(name), Range=f"bytes={place}-{stop - 1}", **told
        )
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") in ("InvalidRange", "416"):
            found = head(folder, name)
            if etag is not None and found.etag != etag:
                raise replaced(folder, name) from None
            return found.etag, found.bytes
        raise
    with closing(answer["Body"]) as body:
        found_etag = answer["ETag"].strip('"')
        if etag is not None and found_etag != etag:  # A store that does not know If-Match.
            raise replaced(folder, name)
        first, total = _content_range(answer)
        if first != place:
            raise UserError(
                f"{S3}{folder.bucket}/{folder.key(name)}: bytes from {place} on were asked for, and the store sent bytes"
                f" from {first} on; it does not serve ranges, so copy the pool to one that does."
            )
        left = min(stop, total) - place
        try:
            while left > 0 and (data := body.read(min(left, _CHUNK))):
                keep(data)
                left -= len(data)
        except (IncompleteReadError, HTTPClientError, FlexibleChecksumError, HTTPError, OSError) as error:
            raise _BrokenOffError(_reason(error), found_etag, total) from error
    return found_etag, total


def _content_range(answer: Any) -> tuple[int, int]:
    """First byte of an answer, and the length of the object."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.get("ContentRange") or "")
    return (int(found[1]), int(found[2])) if found else (0, int(answer["ContentLength"]))


def client() -> Any:
    """The client of this process: a forked one cannot use its parent's connections."""
    with _MAKING:
        return _client_of(os.getpid())


@cache
def _client_of(process: int) -> Any:
    import boto3
    from botocore.config import Config

    retries: dict[str, Any] = {"mode": os.environ.get("AWS_RETRY_MODE", "standard")}
    if "AWS_MAX_ATTEMPTS" not in os.environ:
        retries["total_max_attempts"] = MAX_ATTEMPTS
    config = Config(retries=retries, max_pool_connections=CONNECTIONS, connect_timeout=10, read_timeout=60)
    return boto3.session.Session().client("s3", config=config)


@contextmanager
def _sentences(bucket: str, key: str) -> Iterator[None]:
    """Turn what botocore raises into a sentence. What a store writes is left out but for its code: it may tell of keys."""
    from botocore import exceptions as known

    where = f"{S3}{bucket}/{key}"
    missing_credentials = (
        *(known.NoCredentialsError, known.PartialCredentialsError, known.CredentialRetrievalError),
        *(known.ProfileNotFound, known.SSOError, known.TokenRetrievalError, known.InvalidConfigError),
    )
    try:
        yield
    except missing_credentials as error:
        raise UserError(
            f"{where}: no credentials of AWS are found ({type(error).__name__}); name a profile in AWS_PROFILE, or set"
            " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        ) from None
    except known.ClientError as error:
        raise _client_error(error, bucket, key) from None
    except (known.HTTPClientError, known.ConnectionError) as error:
        raise UserError(
            f"{where}: {_endpoint()} cannot be reached ({_reason(error)}); check AWS_ENDPOINT_URL_S3, the region and the"
            " network."
        ) from None
    except (known.BotoCoreError, ValueError) as error:
        raise UserError(
            f"{where}: the request cannot be made ({type(error).__name__}); check the settings of AWS: endpoint, region"
            " and profile."
        ) from None


def _client_error(error: Any, bucket: str, key: str) -> UserError:
    where = f"{S3}{bucket}/{key}"
    code = str(error.response.get("Error", {}).get("Code") or "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code == "NoSuchBucket":
        return UserError(f"{where}: there is no bucket '{bucket}' at {_endpoint()}; correct the path of the pool.")
    if code in ("NoSuchKey", "404", "NotFound"):
        return MissingError(f"{where} is missing")
    if code in ("PreconditionFailed", "412"):
        return replaced(S3Folder(bucket, ""), key)
    if code in _DENIED:
        return UserError(
            f"{where}: access is denied ({code}); let the credentials list the bucket and get its objects (s3:ListBucket,"
            " s3:GetObject), or name another profile in AWS_PROFILE."
        )
    if code in _KEYS:
        return UserError(f"{where}: the credentials are refused ({code}); renew them, or correct AWS_PROFILE.")
    if code in _THROTTLED or status in (429, 503):
        return UserError(
            f"{where}: the store has throttled for too long ({code}); run again later, with fewer workers, or with more"
            " patience (AWS_MAX_ATTEMPTS)."
        )
    if code in _ELSEWHERE:
        return UserError(f"{where}: the bucket is in another region ({code}); set AWS_DEFAULT_REGION to its own.")
    if code == "InvalidObjectState":
        return UserError(f"{where} is archived; restore it, or take it out of the pool.")
    return UserError(f"{where}: the store answers {code or 'an error'} (HTTP {status}); mend it there, and run again.")


def replaced(folder: S3Folder, name: str) -> ReplacedError:
    """What is to be said of an object that is not what it was."""
    return ReplacedError(
        f"{S3}{folder.bucket}/{folder.key(name)} was replaced since it was listed or first read; pin the pool anew with"
        " 'mimcore scan' and '--adopt', then run 'dvc repro'."
    )


def _endpoint() -> str:
    """The endpoint without what may be secret in its address."""
    try:
        parts = urlsplit(client().meta.endpoint_url)
        return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
    except Exception:  # It was the client that could not be made.
        return "the endpoint"


def _reason(error: BaseException) -> str:
    """What kind of failure it was, without addresses."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__.removesuffix("Error")).lower()

"""Files by URL (``s3://``, ``gs://``, ``az://``, ``memory://``, ``file://``): list them and read them, through fsspec.

Credentials, endpoints and retries are those of the libraries (botocore, gcsfs, adlfs), from their usual environment
variables and files. Every error names the URL, and no message repeats what a server or a library said of credentials.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from logging import NullHandler, getLogger
from typing import Any

from unmask.errors import ConfigError, DataError, DiskError, MissingExtra, UnmaskError

PROTOCOLS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs"}
"""Protocols that need a package of the extra ``storage``."""
LOCAL = ("memory", "file")
"""Protocols without a network."""
KNOWN = "s3://, gs:// or az://"

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of a disk of this host, which no storage library gives another meaning."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(/?)")
_SECRET = re.compile(r"://[^/@]*:[^/@]*@|\?[^/]*=")

_LOGGERS = ("s3fs", "gcsfs", "adlfs", "azure", "google")
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
_REFUSED = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidSecurity", "AuthFailure"}
_BUSY = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "OperationAborted"}
_NO_CREDENTIALS = re.compile("Credential|DefaultAzure|TokenRetrieval|SSO|RefreshError|ProfileNotFound")
_NO_CONNECTION = re.compile("Timeout|Connect|Incomplete|Payload|ServerDisconnected|SSL|Proxy|HTTPClientError")


class _Network:
    """Whether a block of :func:`unmask.data.hub.offline_mode` is open."""

    forbidden = False


network = _Network()


def is_url(given: object) -> bool:
    """Return whether something names a file by URL; what :class:`~pathlib.Path` makes of one (``s3:/bucket``) is one too."""
    found = _URL.match(str(given))
    return found is not None and (bool(found[2]) or found[1] in (*PROTOCOLS, *LOCAL, "hf", "http", "https"))


def refuse_url(given: object, what: str = "") -> None:
    """Raise a :class:`ConfigError` if a URL is given where only a file or folder of this machine can be."""
    if is_url(given):
        url = re.sub("^([^:]*):/+", r"\1://", str(given))
        raise ConfigError(
            f"{what}{': ' if what else ''}{_without_secret(url)} is a URL; give a file or folder of this machine"
        )


def _without_secret(url: str) -> str:
    """Return a URL as it can be shown: scheme, bucket and path, an ellipsis for what may be secret."""
    if not _SECRET.search(url):
        return url
    place, options, _ = url.partition("?")
    return re.sub("://[^/]*:[^/]*@", "://…@", place) + ("?…" if options else "")


def changed(url: str) -> DataError:
    return DataError(
        "the object changed since it was listed; start again, so that one version is read", path=url
    )


def open_system(url: str, *, writing: bool = False) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it."""
    scheme, slashes, _ = url.partition("://")
    if not slashes:
        raise ConfigError(f"{url}: give a URL as a string: as a Path it loses a slash")
    if _SECRET.search(url):
        raise ConfigError(
            f"{_without_secret(url)}: a URL takes no credentials and no options, which would stand in logs and run "
            f"folders; set them in the environment of its library"
        )
    if scheme not in PROTOCOLS and scheme not in LOCAL:
        what = f"URLs of {scheme}:// cannot be used; give one of {KNOWN}, or download it first"
        raise (ConfigError(f"{url}: {what}") if writing else DataError(what, path=url))
    if network.forbidden and scheme not in LOCAL:
        what = "offline (--offline), so nothing is read from or written to a URL"
        raise (ConfigError(f"{url}: {what}") if writing else DataError(what, path=url))
    from fsspec.core import url_to_fs

    for name in _LOGGERS:  # which would print tracebacks
        if not (logger := getLogger(name)).handlers:
            logger.addHandler(NullHandler())
    try:
        options = {"max_concurrency": 4} if PROTOCOLS.get(scheme) == "s3fs" else {}  # parts in memory at once
        system, path = url_to_fs(url, use_listings_cache=False, **options)
    except ImportError as error:
        package = str(error.name or PROTOCOLS.get(scheme, "fsspec")).partition(".")[0]
        raise MissingExtra(package, "storage", f"{scheme}://") from None
    except (ValueError, TypeError):  # that its library says so may repeat them
        what = f"{PROTOCOLS[scheme]} finds no credentials or settings that it can use; set them as it expects"
        raise (DiskError(f"{url}: {what}") if writing else DataError(what, path=url)) from None
    except Exception as error:
        raise explanation(error, url, DiskError if writing else DataError) from None
    if scheme in PROTOCOLS and not path.strip("/"):
        raise ConfigError(f"{url}: no bucket is named; expected {scheme}://BUCKET/NAME")
    return system, path


@contextmanager
def explained(url: str, kind: type[DataError] | type[DiskError] = DataError) -> Iterator[None]:
    """Turn whatever a library raises into one line: a :class:`DataError`, or a :class:`DiskError` where it writes."""
    try:
        yield
    except UnmaskError:
        raise
    except OSError as error:
        if error.errno in NO_ROOM:  # of a disk here
            raise
        raise explanation(error, url, kind) from None
    except Exception as error:  # each library has its own classes
        raise explanation(error, url, kind) from None


def explanation(error: Exception, url: str, kind: type[DataError] | type[DiskError]) -> UnmaskError:
    """Return the error to raise for one of a library."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) and cause not in causes:
        causes.append(cause)
    answers = [found for cause in causes if isinstance(found := getattr(cause, "response", None), dict)]
    codes = [getattr(cause, name, None) for cause in causes for name in ("code", "status_code", "status")]
    code = str((answers[0] if answers else {}).get("Error", {}).get("Code") or next(filter(None, codes), ""))
    status = str((answers[0] if answers else {}).get("ResponseMetadata", {}).get("HTTPStatusCode", code))
    if status == "412" or type(error).__name__ == "FileExpired":
        return changed(url)
    verb = "read" if kind is DataError else "written"
    what = f"cannot be {verb}: {_reason(causes, code, status)}"
    return DataError(what, path=url) if kind is DataError else DiskError(f"{url}: {what}")


def _reason(causes: list[BaseException], code: str, status: str) -> str:
    """Return why, in our words: what servers and libraries say may hold keys, tokens and signed addresses."""
    shown = f" ({code})" if code else ""
    kinds = [type(cause).__name__ for cause in causes]
    if code in _EXPIRED:
        return f"the credentials have expired{shown}; renew them"
    if code in _REFUSED or status == "401":
        return f"the credentials are not accepted{shown}; check them, and the endpoint"
    if _NO_CREDENTIALS.search(" ".join(kinds)):
        return (
            "no credentials were found, or none that can be used; set them as its library expects, for S3 "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role"
        )
    if code == "NoSuchBucket":
        return "there is no such bucket (NoSuchBucket)"
    if any(isinstance(cause, FileNotFoundError) for cause in causes) or status == "404":
        return f"no such object or folder{shown}"
    if any(isinstance(cause, PermissionError) for cause in causes) or status == "403":
        return (
            f"access denied{shown}: the credentials do not allow it, or the bucket belongs to somebody else"
        )
    if code in _BUSY or status in ("429", "500", "502", "503", "504"):
        return f"the server is overloaded or out of order{shown}, also after several tries; try again later"
    lost = isinstance(causes[0], ConnectionError | TimeoutError)
    if lost or _NO_CONNECTION.search(" ".join(kinds)):
        return (
            f"no connection to the server, or it was cut, also after several tries ({kinds[-1]}); check the network, and "
            f"the endpoint"
        )
    if status == "400":  # the answer to a HEAD says no more
        return f"the server refuses the request{shown}; check the endpoint, and whether the credentials have expired"
    return f"{kinds[0]}{shown}"

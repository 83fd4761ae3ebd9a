"""A classifier behind HTTP as a small yaml says: where to post, how a picture is written, where the answer stands."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import os
import re
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robustsuite.benchmarks.models.files import regular
from robustsuite.benchmarks.models.finish import eight_bits
from robustsuite.config.text import read_yaml
from robustsuite.errors import BadModel, BadValue, quoted

LARGEST = 1 << 20
"""Bytes of the yaml at the most."""

LOOPBACK = {"localhost", "127.0.0.1", "::1"}

MISSING = 1e-3
"""How far below the least score that a top-k answer tells lie the classes that it leaves out."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Body(_Strict):
    """How pictures are written. picture: png (base64), raw (the png itself, one a request), uint8 or float numbers.

    field: under which key of `template`'s json, '' for the presets; layout of numbers: nchw or nhwc.
    """

    picture: Literal["png", "raw", "uint8", "float"] = "float"
    field: str = ""
    layout: Literal["nchw", "nhwc"] = "nchw"
    template: dict[str, Any] = {}


class Where(_Strict):
    """Where the answer stands in the reply, as dotted paths; '*' is each picture's place.

    scores: a number a class (or, beside labels, a number a label that is told). labels: the first class, or the first
    few, as indices or names. probabilities: the scores are such; their logarithms are used.
    """

    scores: str = ""
    labels: str = ""
    probabilities: bool = False


class Authorisation(_Strict):
    """Who allowed this test of a service that is not one's own, until when, and what of it."""

    by: str = Field(min_length=1)
    until: date
    scope: str = Field(min_length=1)


class Endpoint(_Strict):
    """What the yaml holds. protocol: oip (Open Inference Protocol 2), json (instances -> predictions), or custom.

    headers: $NAME stands for an environment variable. rate: requests a second; batch: pictures in one; concurrency:
    requests at a time; queries_total: answers that may be billed in all. classes: names in the data's order.
    version: of the model behind it, which tells its answers from another's; version_header: a header of the reply
    whose change means another model.
    """

    name: str = Field(pattern=r"^[\w.-]{1,60}$")
    url: str
    protocol: Literal["oip", "json", "custom"] = "json"
    method: Literal["POST", "PUT"] = "POST"
    headers: dict[str, str] = {}
    input: str = "input"
    body: Body = Body()
    answer: Where = Where()
    classes: list[str] = []
    rate: Annotated[float, Field(gt=0)] = 10.0
    batch: Annotated[int, Field(ge=1, le=4096)] = 1
    concurrency: Annotated[int, Field(ge=1, le=64)] = 1
    timeout: Annotated[float, Field(gt=0, le=600)] = 30.0
    retries: Annotated[int, Field(ge=0, le=20)] = 6
    queries_total: Annotated[int, Field(ge=1)] | None = None
    version: str = ""
    version_header: str = ""
    authorisation: Authorisation | None = None

    @property
    def host(self) -> str:
        """host[:port], as a sweep must name it."""
        return urlsplit(self.url).netloc

    @property
    def grid(self) -> bool:
        """Whether pictures travel in 8 bits a value."""
        return self.body.picture != "float"

    def identity(self) -> str:
        """sha256 of all that decides what is asked and how it is read; not of how fast."""
        facts = self.model_dump(mode="json", exclude={"rate", "batch", "concurrency", "timeout", "retries", "headers",
                                                      "queries_total", "authorisation", "name"})  # fmt: skip
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def read_endpoint(path: Path) -> Endpoint:
    """The description in a yaml file. Raises BadModel, BadData, BadValue."""
    path = regular(str(path), "a yaml of an endpoint", LARGEST)
    try:
        value, _ = read_yaml(path.read_text(encoding="utf-8"), path.name, dates=True)
        found = Endpoint.model_validate(value)
    except UnicodeDecodeError as error:
        raise BadModel(f"expected yaml in {path.name}, got no UTF-8 ({error.reason}); mend it") from error
    except ValidationError as error:
        first = error.errors()[0]
        spot = ".".join(map(str, first["loc"])) or "it"
        got = quoted(first["input"])
        raise BadModel(f"expected {first['msg'].lower()} for {spot} in {path.name}, got {got}; mend it") from error
    return _checked(found, path.name)


def _checked(found: Endpoint, name: str) -> Endpoint:
    try:
        parts = urlsplit(found.url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # half an address, a port that is none
        good = False
    if not good:
        raise BadValue(f"expected an http or https url in {name}, got {found.url!r}; mend it")
    if parts.username or parts.password:
        raise BadValue(f"expected no user or password in the url of {name}, got one; use headers and the environment")
    if parts.hostname not in LOOPBACK:
        allowed = found.authorisation
        if allowed is None:
            raise BadValue(
                f"expected authorisation: {{by, until, scope}} in {name} for {parts.hostname}, which is not this "
                f"machine, got none; ask whoever answers for it"
            )
        if allowed.until < date.today():
            raise BadValue(f"expected an authorisation of {name} that lasts, got one until {allowed.until}; ask again")
    if found.protocol == "custom" and not (found.answer.scores or found.answer.labels):
        raise BadValue(f"expected answer.scores or answer.labels in {name}, got neither; say where the answer stands")
    if found.protocol == "custom" and found.body.picture != "raw" and not found.body.field:
        raise BadValue(f"expected body.field in {name}, got none; say under which key pictures are sent")
    if found.body.picture == "raw" and found.batch > 1:
        raise BadValue(f"expected batch: 1 in {name} where pictures are sent raw, got {found.batch}; a body holds one")
    for text in (*found.headers, *found.headers.values()):
        if not (text.isascii() and text.isprintable()):
            raise BadValue(f"expected headers of plain letters in {name}, got {quoted(text)}; mend it")
    return found


def headers_of(endpoint: Endpoint) -> dict[str, str]:
    """The headers with their variables filled in; raises BadValue for one that is not set."""
    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise BadValue(f"expected {match[1]} in the environment for a header of {endpoint.name}, got none; set it")
        return os.environ[match[1]]

    return {key: re.sub(r"\$(\w+)", value, text) for key, text in endpoint.headers.items()}


def encoded(endpoint: Endpoint, pictures: np.ndarray) -> list[bytes]:
    """Each picture (N, C, H, W) float32 in [0, 1] as it is sent: bytes that also name it in the ledger."""
    if not endpoint.grid:
        return [np.ascontiguousarray(picture, dtype="<f4").tobytes() for picture in pictures]
    levels = eight_bits(pictures)
    if endpoint.body.picture == "uint8":
        return [np.ascontiguousarray(picture).tobytes() for picture in levels]
    return [_png(picture) for picture in levels]


def _png(picture: np.ndarray) -> bytes:
    out = io.BytesIO()
    image = picture[0] if picture.shape[0] == 1 else picture.transpose(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(image)).save(out, "PNG", compress_level=1)
    return out.getvalue()


def request(endpoint: Endpoint, sent: list[bytes], shape: tuple[int, int, int]) -> tuple[bytes, str]:
    """The body for these pictures, and its content type."""
    if endpoint.body.picture == "raw":
        return sent[0], "image/png"
    kind = {"png": "BYTES", "uint8": "UINT8", "float": "FP32"}[endpoint.body.picture]
    if kind == "BYTES":
        pictures = np.array([base64.b64encode(one).decode() for one in sent])
    else:
        dtype = "<f4" if kind == "FP32" else np.uint8
        pictures = np.stack([np.frombuffer(one, dtype).reshape(shape) for one in sent])
        pictures = pictures.transpose(0, 2, 3, 1) if endpoint.body.layout == "nhwc" else pictures
    if endpoint.protocol == "oip":
        tensor = {"name": endpoint.input, "shape": list(pictures.shape), "datatype": kind}
        content: dict[str, Any] = {"inputs": [{**tensor, "data": pictures.reshape(-1).tolist()}]}
    elif endpoint.protocol == "json":
        items = pictures.tolist()
        content = {"instances": [{"b64": one} for one in items] if kind == "BYTES" else items}
    else:
        items = pictures.tolist()
        content = {**endpoint.body.template, endpoint.body.field: items if endpoint.batch > 1 else items[0]}
    return json.dumps(content, separators=(",", ":")).encode(), "application/json"


def decoded(endpoint: Endpoint, content: bytes, n: int, classes: int) -> list[list[float] | int]:
    """What a reply says of its n pictures: scores a class, or one class. Raises ValueError with what is wrong."""
    value = json.loads(content)
    where = endpoint.answer
    if endpoint.protocol == "oip" and not (where.scores or where.labels):
        output = value["outputs"][0]
        table = np.asarray(output["data"], dtype=float).reshape(n, -1)
        return [_scores(row.tolist(), endpoint, classes) for row in table]
    if endpoint.protocol == "json" and not (where.scores or where.labels):
        where = Where(scores="predictions.*", probabilities=where.probabilities)
    found: list[list[float] | int] = []
    for i in range(n):
        scores = _at(value, where.scores, i) if where.scores else None
        if not where.labels:
            found.append(_scores(scores, endpoint, classes))
            continue
        told = _at(value, where.labels, i)
        labels = [_index(one, endpoint, classes) for one in (told if isinstance(told, list) else [told])]
        found.append(labels[0] if scores is None else _top(labels, scores, endpoint, classes))
    return found


def _at(value: Any, path: str, i: int) -> Any:
    """What stands at a dotted path; '*' is the i-th, a word under a list is that of each of its entries."""
    for k, key in enumerate(parts := path.split(".")):
        if isinstance(value, list) and not (key == "*" or key.isdigit()):
            return [_at(one, ".".join(parts[k:]), i) for one in value]
        try:
            value = value[i if key == "*" else int(key)] if isinstance(value, list) else value[key]
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"expected {path} in the answer, got nothing at {key!r}") from error
    return value


def _scores(value: Any, endpoint: Endpoint, classes: int) -> list[float]:
    if not isinstance(value, list) or len(value) != classes:
        got = f"{len(value)} of them" if isinstance(value, list) else repr(value)[:60]
        raise ValueError(f"expected {classes} scores, got {got}")
    numbers = [float(one) for one in value]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("expected finite scores, got NaN or infinity")
    return [math.log(max(p, 1e-12)) for p in numbers] if endpoint.answer.probabilities else numbers


def _index(label: Any, endpoint: Endpoint, classes: int) -> int:
    if isinstance(label, str) and label in endpoint.classes:
        return endpoint.classes.index(label)
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < classes:
        return label
    raise ValueError(f"expected one of {classes} classes, got {str(label)[:60]!r}; list its names under classes")


def _top(labels: list[int], scores: Any, endpoint: Endpoint, classes: int) -> list[float]:
    """The scores that are told; a class that is left out lies just below the least of them."""
    told = _scores(scores if isinstance(scores, list) else [scores], endpoint, len(labels))
    row = [min(told) - MISSING] * classes
    for label, score in zip(labels, told, strict=True):
        row[label] = score
    return row

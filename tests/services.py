"""A loopback service over a small network, that can be asked to misbehave; it counts what it looks at."""

from __future__ import annotations

import base64
import io
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn


class Served:
    """net: over (N, C, H, W) in [0, 1]. answers: scores, label or top3. faults: chance of each, see `do_POST`."""

    def __init__(self, net: nn.Module, answers: str = "scores", **faults: float) -> None:
        self.net, self.answers, self.faults = net, answers, faults
        self.looked, self.seen, self.chance = 0, Counter[bytes](), random.Random(0)
        self.lock = threading.Lock()

    def reply(self, body: bytes) -> dict[str, Any]:
        """What it says of a body in any of the forms that we write."""
        value = json.loads(body)
        if "inputs" in value:
            tensor = value["inputs"][0]
            x = torch.tensor(tensor["data"], dtype=torch.float32).view(tensor["shape"])
            x = x / 255 if tensor["datatype"] == "UINT8" else x
        else:
            x = torch.stack([self._picture(one) for one in value["instances"]])
        with self.lock, torch.no_grad():
            self.looked += len(x)
            self.seen.update(picture.numpy().tobytes() for picture in x)
            logits = self.net(x)
            if self.chance.random() < self.faults.get("changes", 0):
                logits = logits.flip(1)
        if "inputs" in value:
            data = logits.flatten().tolist()
            return {"outputs": [{"name": "y", "shape": list(logits.shape), "datatype": "FP32", "data": data}]}
        if self.answers == "scores":
            return {"predictions": logits.tolist()}
        top = logits.topk(3 if self.answers == "top3" else 1, 1)
        told = [[{"label": f"class {k}", "score": s} for k, s in zip(*row, strict=True)]
                for row in zip(top.indices.tolist(), top.values.tolist(), strict=True)]  # fmt: skip
        return {"predictions": told}

    @staticmethod
    def _picture(one: Any) -> torch.Tensor:
        if isinstance(one, dict):
            image = np.asarray(Image.open(io.BytesIO(base64.b64decode(one["b64"]))), np.float32) / 255
            return torch.from_numpy(image[None] if image.ndim == 2 else image.transpose(2, 0, 1).copy())
        return torch.tensor(one, dtype=torch.float32)


def _handler(served: Served) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with served.lock:
                draw = {kind: served.chance.random() < share for kind, share in served.faults.items()}
            if draw.get("too_many"):
                return self._send(429, b"{}", {"Retry-After": "0"})
            if draw.get("forbidden"):
                return self._send(403, b"no", {})
            if draw.get("drops"):
                self.close_connection = True
                self.connection.close()
                return None
            content = json.dumps(served.reply(body)).encode()
            if draw.get("late"):
                time.sleep(0.6)
            if draw.get("torn"):
                content = content[: len(content) // 2]
            return self._send(200, content, {"x-model-version": "1"})

        def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            pass

    return Handler


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that was killed, or a connection that we dropped


@contextmanager
def serving(served: Served) -> Iterator[str]:
    """The service's address while it lasts."""
    server = _Quiet(("127.0.0.1", 0), _handler(served))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()

"""CUDA graphs: what is done on a device, captured once and replayed, of several threads of one process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

capturing = threading.RLock()
"""Held by the one thread of this process that captures, or warms up for it."""


@contextmanager
def captured(device: str) -> Iterator[torch.cuda.CUDAGraph]:
    """Capture what is done within this context; other threads go on meanwhile with what is no capture."""
    graph = torch.cuda.CUDAGraph()
    with own_stream(device), capturing:
        stream = torch.cuda.current_stream(device)
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            yield graph


@contextmanager
def own_stream(device: str) -> Iterator[None]:
    """Be in a stream other than the device's default one, in which nothing can be captured; no CUDA device has none."""
    if not device.startswith("cuda"):
        yield
        return
    before = torch.cuda.current_stream(device)
    if before != torch.cuda.default_stream(device):
        yield
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(before)
    with torch.cuda.stream(stream):
        yield
    before.wait_stream(stream)

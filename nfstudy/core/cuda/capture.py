"""CUDA graphs: what is done on a device, captured once and replayed, of several threads of one process."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

capturing = threading.RLock()
"""Held by the one thread of this process that captures, or warms up for it."""


@contextmanager
def captured(device: str) -> Iterator[torch.cuda.CUDAGraph]:
    """Capture what is done within this context; other threads go on meanwhile with what is no capture.

    `torch.cuda.graph` is not used: before each capture it waits for all that other threads have asked of the device,
    which are seconds, and gives back memory that they are about to take again.
    """
    graph = torch.cuda.CUDAGraph()
    with own_stream(device), capturing, _uncollected():
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            yield graph
        finally:
            graph.capture_end()


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep Python's collector from running: page-locked memory that it found dead would be given back within a capture.

    It is of a training that this stream did before, so that an event is recorded in the stream that is being captured,
    which ends the capture, and with it the process: a destructor's error is nobody's to handle.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


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
    stream = torch.cuda.Stream(device)
    stream.wait_stream(before)
    with torch.cuda.stream(stream):
        yield
    before.wait_stream(stream)

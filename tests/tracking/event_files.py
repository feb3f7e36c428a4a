"""Reads TensorBoard's event files by their format: of each event its length, 4 bytes, itself, and 4 bytes."""

import struct
from collections import defaultdict


def events_of(run):
    """The events of all files of a run, in the order of their names."""
    from tensorboardX.proto.event_pb2 import Event

    events = []
    for file in sorted((run / "tensorboard").iterdir()):
        content = file.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            events.append(Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
    return events


def values_of(run, kind):
    """(step, name, value) of all values of a kind: simple_value, image or tensor."""
    return [
        (event.step, value.tag, getattr(value, kind))
        for event in events_of(run)
        for value in event.summary.value
        if value.HasField(kind)
    ]


def scalars_of(run):
    """Name of each curve -> its points (step, value)."""
    curves = defaultdict(list)
    for step, name, value in values_of(run, "simple_value"):
        curves[name].append((step, value))
    return curves

"""A recorded top-k trace as a recording: what hot buffers would have missed of it. Knows traces and buffers; no beds, no times."""

import numpy as np

from emulation.errors import InputError
from emulation.latency.replayed import Recording
from sac_runtime.rows.layout import KvLayout
from sac_runtime.traces.replay import PlanOnly, Replay
from sac_runtime.traces.tables import Trace


def recording_of_trace(trace: Trace, hot_buffer: int, layout: KvLayout) -> Recording:
    """What the runtime's hot buffers of `hot_buffer` slots miss of a trace. Requests follow one another within a step, as layers
    do; the context is their mean. Raises InputError for a buffer that does not hold a top-k, or a trace without steps."""
    header = trace.header
    if hot_buffer < header.top_k:
        raise InputError(f"trace: hot_buffer={hot_buffer} is below the trace's top_k; give at least {header.top_k}")
    requests = [PlanOnly.of(header, hot_buffer, number) for number in range(header.num_requests)]
    replay = Replay(header, requests)
    misses = [[plan.misses for layers in replay.step(step).plans for plan in layers] for step in trace]
    if not misses:
        raise InputError("trace: holds no step; record at least one")
    context_tokens = max(1, round(sum(header.context_tokens) / header.num_requests))
    return Recording(np.array(misses, np.int64), context_tokens, header.top_k, layout)

"""Whatever a trace's file holds: it is read by its rules, or refused in our words, without a hang.

TRACE_EXAMPLES=1000000 makes a long run of it."""

import math
import os
import random
import struct
import zlib
from collections import Counter

import numpy as np
import pytest

from emulation.errors import InputError
from emulation.serving.cluster import simulate
from emulation.serving.replay import replay_of, turns_of
from emulation.serving.spec import ClusterSpec
from emulation.serving.traces.reading import read_trace
from sac_runtime.errors import TraceError
from sac_runtime.traces.format import TraceHeader, TraceReader, TraceStep, write_trace
from tests.support.trace_noise import TEXTS, examples

NUM_EXAMPLES = int(os.environ.get("TRACE_EXAMPLES", "10000"))
CONTEXT_TOKENS = 100_000


def require_replayable(trace):
    """What holds of every trace that was read."""
    turns = [turn for first in trace.requests for turn in turns_of(first)]
    arrivals = [first.arrival_ns for first in trace.requests]
    assert trace.num_requests == len(turns) > 0
    assert arrivals == sorted(arrivals) and arrivals[0] == 0.0
    for turn in turns:
        assert math.isfinite(turn.arrival_ns) and 0 <= turn.delay_ns <= 1e20
        assert min(turn.prompt_len, turn.output_len) >= 1
        assert turn.prompt_len + turn.output_len <= CONTEXT_TOKENS
        assert len(turn.hash_ids) in (0, -(-turn.prompt_len // trace.block_tokens))
    counts = trace.counts
    assert counts.entries == trace.num_requests + counts.above_context
    assert sum(1 for first in replay_of(trace, concurrency=2).requests() for _ in turns_of(first)) == trace.num_requests


def test_any_file_is_replayable_or_refused_in_our_words(tmp_path):
    path, outcomes = tmp_path / "trace", Counter()
    for number, (name, content, whole) in enumerate(examples(NUM_EXAMPLES)):
        path.write_bytes(content)
        try:
            trace = read_trace(path, output_tokens=5, context_tokens=CONTEXT_TOKENS)
        except InputError as error:
            assert not whole or "no request" in str(error), (content, error)  # conversations without a reply
            assert str(path) in str(error) and len(str(error)) < 1200, content
            outcomes["refused"] += 1
            continue
        assert not whole or trace.counts.format == name, content
        require_replayable(trace)
        outcomes["read"] += 1
        if number % 500 == 0:
            assert (
                simulate(ClusterSpec("cxl"), replay_of(trace, concurrency=2)).recorder.completed == trace.num_requests
            )
    assert min(outcomes["read"], outcomes["refused"]) > NUM_EXAMPLES / 4, outcomes


@pytest.mark.parametrize("name", TEXTS)
def test_a_file_that_is_cut_anywhere_is_replayable_or_refused(tmp_path, name):
    path, text = tmp_path / "trace", TEXTS[name](random.Random(1)).encode()
    for end in range(len(text)):
        path.write_bytes(text[:end])
        try:
            require_replayable(read_trace(path, output_tokens=5, context_tokens=CONTEXT_TOKENS))
        except InputError as error:
            assert str(path) in str(error)


def sealed(header, payloads):
    """A top-k trace with right checksums, whatever is in it."""
    records = (struct.pack("<II", len(payload), zlib.crc32(payload)) + payload for payload in payloads)
    prefix = struct.pack("<8sIII", b"SACTRACE", 2, len(header), zlib.crc32(header))
    return prefix + header + b"".join(records) + struct.pack("<II", 0, len(payloads))


def test_any_topk_trace_is_whole_or_refused_in_our_words(tmp_path):
    """Half of them with right checksums, so that the content is reached."""
    path, rng, outcomes = tmp_path / "topk", random.Random(2), Counter()
    header = TraceHeader(2, 4, (6, 30), "test")
    sets = tuple(tuple(np.array([0, 2, 5]) for _ in range(2)) for _ in range(2))
    write_trace(path, header, [TraceStep(0, sets), TraceStep(1, sets)])
    whole = path.read_bytes()
    encoded = whole[20 : 20 + struct.unpack_from("<I", whole, 12)[0]]
    content = zlib.decompress(whole[28 + len(encoded) :])
    for number in range(NUM_EXAMPLES // 4):
        if number % 2:
            mutant = bytearray(whole)
            mutant[rng.randrange(len(mutant))] ^= 1 << rng.randrange(8)
            path.write_bytes(mutant[: rng.choice((len(mutant), rng.randrange(len(mutant))))])
        else:
            words = (b"2", b"4294967296", b"-1", b"1e400", b"NaN", b"[]", b'"2"', b"18446744073709551616", b"[0,0]")
            changed = encoded.replace(rng.choice((b"2", b"4", b"[6, 30]", b"30", b'"test"')), rng.choice(words), 1)
            raw = bytearray(content)
            raw[rng.randrange(len(raw))] = rng.choice((0, 1, 3, 255))
            path.write_bytes(sealed(changed, [zlib.compress(bytes(raw))] * rng.randint(0, 3)))
        try:
            outcomes["steps"] += sum(1 for _ in TraceReader(path))
        except TraceError as error:
            assert str(path) in str(error) and len(str(error)) < 500
            outcomes["refused"] += 1
    assert outcomes["steps"] and outcomes["refused"] > NUM_EXAMPLES / 8

"""Top-k traces from CSV and npz: what a table means, and what is said of one that is broken."""

import numpy as np
import pytest

from sac_runtime.errors import TraceError
from sac_runtime.traces import tables
from sac_runtime.traces.format import TraceHeader, TraceReader, write_trace
from sac_runtime.traces.synthetic import SyntheticSpec, generate
from sac_runtime.traces.tables import open_trace

CSV = "step,layer,rows\n0,0,3 1\n0,1,7 2\n1,0,1 4\n1,1,2\n"


def written(tmp_path, text, name="mine.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def sets_of(trace):
    return [[[tokens.tolist() for tokens in layers] for layers in step.topk] for step in trace]


def saved(tmp_path, **arrays):
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    return path


def test_a_csv_table_is_a_trace_whose_rows_may_stand_in_any_order(tmp_path):
    trace = open_trace(written(tmp_path, CSV))
    assert sets_of(trace) == [[[[1, 3], [2, 7]]], [[[1, 4], [2]]]]
    assert (trace.header.num_layers, trace.header.top_k, trace.header.context_tokens) == (2, 2, (7,))
    assert "the shortest that holds the rows" in trace.header.source
    shuffled = "rows,step,layer\n" + "".join(
        f"{rows},{step},{layer}\n" for step, layer, rows in (line.split(",") for line in reversed(CSV.splitlines()[1:]))
    )
    assert sets_of(open_trace(written(tmp_path, shuffled))) == sets_of(trace)


def test_a_table_says_its_context_and_top_k_and_may_hold_several_requests(tmp_path):
    text = "# context_tokens=100 200\n# top_k=4\n# a remark\nstep,request,layer,rows\n0,0,0,99 100\n0,1,0,200\n"
    header = open_trace(written(tmp_path, text)).header
    assert (header.context_tokens, header.top_k, header.num_requests) == ((100, 200), 4, 2)


def test_npz_in_both_shapes_is_the_same_trace_as_csv(tmp_path):
    trace = open_trace(written(tmp_path, CSV))
    step, layer = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    padded = np.array([[3, 1], [7, 2], [1, 4], [2, -1]], np.int32)
    assert sets_of(open_trace(saved(tmp_path, step=step, layer=layer, rows=padded))) == sets_of(trace)
    flat, counts = np.array([3, 1, 7, 2, 1, 4, 2]), np.array([2, 2, 2, 1])
    ragged = open_trace(saved(tmp_path, step=step, layer=layer, rows=flat, counts=counts, context_tokens=50, top_k=8))
    assert sets_of(ragged) == sets_of(trace)
    assert (ragged.header.context_tokens, ragged.header.top_k) == ((50,), 8)


def test_what_the_runtime_recorded_comes_back_the_same_through_a_table(tmp_path):
    spec = SyntheticSpec.published(4096, 64, 3, 7)
    steps = list(generate(spec, 5))
    write_trace(tmp_path / "own.trace", spec.header(), steps)
    lines = [
        f"{step.index},{layer},{' '.join(map(str, tokens))}"
        for step in steps
        for layer, tokens in enumerate(step.topk[0])
    ]
    table = open_trace(written(tmp_path, "# context_tokens=4096\n# top_k=64\nstep,layer,rows\n" + "\n".join(lines)))
    own = open_trace(tmp_path / "own.trace")
    assert isinstance(own, TraceReader)
    assert sets_of(table) == sets_of(own)
    assert table.header == TraceHeader(3, 64, (4096,), table.header.source)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no table; CSV begins with the head step,layer,rows"),
        ("step,layer\n0,0\n", r"head='step,layer' lacks rows; it must hold step, layer and rows"),
        ("step,step,layer,rows\n", "lacks distinct names"),
        ("step,layer,rows\n", "holds no set of rows"),
        ("step,layer,rows\n0,0,1 x\n", r"line 2: rows='x' must be a whole number of at least 0"),
        ("step,layer,rows\n0,0,1.0\n", r"line 2: rows='1.0' must be a whole number"),
        ("step,layer,rows\n0,0,1,2\n", "line 2: 4 cells, the head has 3; put blanks, not commas, between rows"),
        ("step,layer,rows\n0,0,-1\n", "line 2: rows=-1 must be at least 0"),
        ("step,layer,rows\n-1,0,1\n", "line 2: step=-1 must be at least 0"),
        ("step,layer,rows\n0,0,5 4 5\n", "line 2: rows=5 stands there twice"),
        ("step,layer,rows\n0,0,1\n0,0,2\n", "line 3: step 0, request 0, layer 0 stands there twice"),
        ("step,layer,rows\n0,0,1\n2,0,1\n", "step 1, request 0, layer 0 is missing among 2 sets of 3 steps"),
        ("step,layer,rows\n0,0,1\n999999999999,0,1\n", "step 1, request 0, layer 0 is missing"),
        ("step,layer,rows\n0,0,99999999999999999999\n", "must be a whole number"),
        ("# top_k=1\nstep,layer,rows\n0,0,1 2\n", "top_k=1 is below the 2 rows of a set"),
        ("# context_tokens=5\nstep,layer,rows\n0,0,9\n", "context_tokens=5 of request 0, whose rows need at least 9"),
        ("# context_tokens=5 6\nstep,layer,rows\n0,0,3\n", "context_tokens has 2 numbers for 1 requests"),
        (
            "# colour=red\nstep,layer,rows\n0,0,1\n",
            "line 1: 'colour' is an unknown setting; known are context_tokens, top_k",
        ),
        ("# top_k=\nstep,layer,rows\n0,0,1\n", "line 1: top_k='' must be a number"),
        ('step,layer,rows\n0,0,"1\n', "line 2: unexpected end of data; quote cells as CSV does"),
    ],
)
def test_a_broken_csv_is_refused_with_line_field_and_rule(tmp_path, text, said):
    with pytest.raises(TraceError, match=said):
        open_trace(written(tmp_path, text))


ONE = {"step": np.array([0]), "layer": np.array([0]), "rows": np.array([[1, 2]])}


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"step": ONE["step"]}, "npz with step lacks layer, rows"),
        ({**ONE, "step": np.array([[0]])}, r"step has shape \(1, 1\) of int64; it must be \(n,\) integers"),
        ({**ONE, "step": np.array([0.0])}, "step has shape .* of float64"),
        ({**ONE, "layer": np.array([0, 1])}, "layer has 2 entries, step has 1"),
        ({**ONE, "rows": np.array([[1.5]])}, "rows are float64; they must be integers"),
        ({**ONE, "rows": np.array([[1], [2]])}, "rows has 2 sets, step has 1 entries"),
        ({**ONE, "rows": np.array([1, 2])}, r"rows has shape \(2,\); it must be \(n, k\), or \(m,\) with counts"),
        ({**ONE, "rows": np.array([1, 2]), "counts": np.array([3])}, "counts has 1 entries of 3 rows in all"),
        ({**ONE, "rows": np.array([[1, -2]])}, "set 0: rows=-2 must be at least 0"),
        ({**ONE, "rows": np.array([["a"]], object)}, "is no npz file that can be read"),
        ({**ONE, "top_k": np.array([2, 3])}, "top_k=.* must be at least 0"),
    ],
)
def test_a_broken_npz_is_refused_with_field_and_rule(tmp_path, arrays, said):
    with pytest.raises(TraceError, match=said):
        open_trace(saved(tmp_path, **arrays))


def test_what_is_no_table_at_all_is_named(tmp_path):
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(TraceError, match="is no npz file that can be read"):
        open_trace(tmp_path / "cut.npz")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TraceError, match="a table is npz, or CSV in UTF-8 with step, layer, rows"):
        open_trace(tmp_path / "binary")
    with pytest.raises(TraceError, match="No such file or directory; name a file that can be read"):
        open_trace(tmp_path / "absent")
    with pytest.raises(TraceError, match="Is a directory"):
        open_trace(tmp_path)


def test_a_table_larger_than_the_bound_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MOST_BYTES", 100)
    with pytest.raises(TraceError, match=r"bytes unpacked, more than 100; split it"):
        open_trace(saved(tmp_path, **ONE))
    with pytest.raises(TraceError, match=r"more than 100; split it, or write npz"):
        open_trace(written(tmp_path, CSV * 10))

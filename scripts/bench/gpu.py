"""Fetches on a GPU from a registered pool: swap-in of a batch, gathers, full copies, a decode loop, other tiers' times by pacing.

    python scripts/bench/gpu.py --json gpu.json --plot gpu.svg  # four minutes; 64 GiB of host memory
    python scripts/bench/gpu.py --lines entries.json  # of `cxlbed latency --entries ... --json`
    python scripts/bench/gpu.py --sweep  # which blocks and warps gather best

Times are CUDA events around graphs, medians; every row brought is compared with the pool's contents. What the pools are and why
their size decides is in docs/gpu.md; what the peer's kernel took, in gpu_peer.py. Ends with 3 without a GPU,
with 1 where a bound is missed.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import median

import torch
from arms import Bound
from gpu_decode import decode_figures, host_rows, timed_ms
from gpu_peer import PEER, PEER_US, swap_bounds
from gpu_pools import CONTEXT_TOKENS, DEVICE, LAYOUTS, BenchBatch, BenchPool, expected_rows, registered_pool
from gpu_swap import graph_of, replay_us, swap_us

from sac_runtime.errors import GpuError
from sac_runtime.gpu.device import require_gpu
from sac_runtime.gpu.pace import Pace
from sac_runtime.gpu.paced import PacedGather
from sac_runtime.gpu.registration import RegisteredStore
from sac_runtime.gpu.rows import gather_rows
from sac_runtime.gpu.swap import CudaSwap, Gatherers, TritonSwap

A_LAYERS, A_LAYER_ROWS = 12, 868_032  # 1.0 GB of 1152 B rows, 0.57 GB of 656 B
B_LAYERS, B_LAYER_BYTES = 6, 9664 << 20
A_CASES = {
    1: (0, 2, 128, 256, 410, 2048),
    8: (0, 2, 128, 410),
    64: (0, 2, 64, 128, 256, 410, 2048),
    100: (0, 2, 128, 410),
}
B_CASES = {1: (128, 410), 8: (128, 410), 64: (2, 128, 256, 410)}
TRITON_CASES = ((1, 0), (1, 128), (64, 0), (64, 128), (64, 410))
SWEEP = [
    Gatherers(*each) for each in ((16, 8), (8, 16), (8, 16, 1), (4, 32), (4, 32, 1), (32, 8, 1), (16, 16), (64, 8))
]
GATHERS = 12
OF_COPY = {
    (2048, 1152, "a layer of pool A"): 0.80,
    (2048, 1152, "pool B"): 0.70,
    (2048, 656, "a layer of pool A"): 0.65,
    (16384, 1152, "a layer of pool A"): 0.88,
}
REGION_CONTEXTS = (3, 7, 14, 28, 68)
SCATTERED_TOKENS = (64, 1024, 16384)
CONTEXTS = (1 << 15, 1 << 16, 1 << 17)
COPY_BYTES = 1 << 30
PACED_ROUNDS = 31


class Run:
    """Figures and bounds as they come."""

    def __init__(self) -> None:
        self.figures: dict[str, object] = {}
        self.bounds: list[Bound] = []
        self.swaps: list[dict[str, object]] = []

    def note(self, name: str, figure: object) -> None:
        self.figures[name] = figure
        print(f"{name:<46} {figure}", flush=True)

    def bound(self, *bounds: Bound) -> None:
        self.bounds += bounds
        for each in bounds:
            verdict = "held" if each.held else "MISSED"
            print(f"    {each.name:<42} {each.value:8.3f} at most {each.at_most:g}: {verdict}", flush=True)


def b_layer_rows(row_bytes: int) -> int:
    """Whole contexts of at least 9 GB per layer."""
    return -(-B_LAYER_BYTES // row_bytes // CONTEXT_TOKENS) * CONTEXT_TOKENS


def card() -> dict[str, str]:
    """Name, driver and clocks, as nvidia-smi has them under load."""
    fields = (
        "name",
        "driver_version",
        "clocks.sm",
        "clocks.mem",
        "clocks.max.sm",
        "pcie.link.gen.current",
        "pcie.link.width.current",
    )
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    words = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0].split(", ")
    return dict(zip(fields, words, strict=True)) | {"torch": torch.__version__}


def link_gbps(store: RegisteredStore) -> float:
    """The copy engine's rate for one large copy from the registered pool."""
    rows = COPY_BYTES // store.layout.stride_bytes
    target = torch.empty((rows, store.layout.stride_bytes), dtype=torch.uint8, device=DEVICE)
    source = host_rows(store, rows)
    return target.numel() / timed_ms(lambda: target.copy_(source, non_blocking=True), 7) / 1e6


def time_swap(run: Run, pool: BenchPool, name: str, batch: int, misses: int, gbps: float, fresh: bool) -> None:
    asked = BenchBatch(pool, batch, misses, fresh=fresh)
    row_bytes = pool.store.layout.row_bytes
    us = swap_us(asked, CudaSwap(pool.store, asked.buffers))
    link_us = batch * misses * row_bytes / gbps / 1e3
    record = {
        "pool": name, "extents": pool.extents, "row_bytes": row_bytes, "batch": batch, "misses": misses, "fresh": fresh, "us": us,
        "region_bytes": pool.layer_bytes, "pool_bytes": pool.layer_bytes * pool.num_layers, "link_us": link_us,
        "rows_per_us": batch * misses / us, "gb_per_s": batch * misses * row_bytes / us / 1e3,
    }  # fmt: skip
    expected_fresh = name == "B"
    if fresh == expected_fresh and pool.extents == expected_fresh:
        record["peer_us"] = PEER_US[name, row_bytes].get((batch, misses))
        run.bound(*swap_bounds(name, row_bytes, batch, misses, us, link_us))
    if name == "A" and not fresh and row_bytes == 1152 and (batch, misses) in TRITON_CASES:
        record["triton_us"] = swap_us(asked, TritonSwap(pool.store, asked.buffers))
    run.swaps.append(record)
    print(
        " ".join(
            f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in record.items()
        ),
        flush=True,
    )
    del asked
    torch.cuda.empty_cache()


def time_planning(run: Run, pool: BenchPool) -> None:
    for capacity, misses, at_most in ((4096, 410, 15.0), (4096, 0, 13.0), (6144, 0, 15.0)):
        batch = BenchBatch(pool, 64, misses, capacity)
        us = swap_us(batch, CudaSwap(pool.store, batch.buffers), plan_only=bool(misses))
        run.bound(Bound(f"64 x {misses}, {capacity} slots, us" + (", planning alone" if misses else ""), us, at_most))
        del batch
        torch.cuda.empty_cache()


def time_gathers(run: Run, store: RegisteredStore, region_rows: int, where: str, gbps: float) -> None:
    """Plain gathers of 2048 and 16384 random rows in Triton, twelve in a graph; the same rows in each replay, then others."""
    row_bytes = store.layout.row_bytes
    for count in (2048, 16384):
        rows = torch.randint(0, region_rows, (GATHERS, count), device=DEVICE)
        out = torch.empty((count, row_bytes), dtype=torch.uint8, device=DEVICE)

        def gathers(rows: torch.Tensor = rows, out: torch.Tensor = out) -> None:
            for each in rows:
                gather_rows(store, each, out)

        def redraw(rows: torch.Tensor = rows) -> None:
            rows.copy_(torch.randint(0, region_rows, rows.shape, device=DEVICE))

        graph = graph_of(gathers)
        same_us, fresh_us = replay_us(graph) / GATHERS, replay_us(graph, redraw) / GATHERS
        assert torch.equal(out, expected_rows(store.layout, rows[-1])), "a gather brought other rows"
        name, link_us = f"gather {count} x {row_bytes} B, {where}", count * row_bytes / gbps / 1e3
        run.note(f"{name}: us, same rows and others", (round(same_us, 1), round(fresh_us, 1)))
        if (count, row_bytes, where) in OF_COPY:
            run.bound(Bound(f"{name}, same rows: of the link", same_us / link_us, 1 / OF_COPY[count, row_bytes, where]))


def time_others(run: Run, store: RegisteredStore) -> None:
    """The same 2048 rows from HBM, and by the copy engine one by one."""
    table = torch.empty((1 << 20, store.layout.row_bytes), dtype=torch.uint8, device=DEVICE)
    rows = torch.randint(0, len(table), (2048,), device=DEVICE)
    out = torch.empty((2048, store.layout.row_bytes), dtype=torch.uint8, device=DEVICE)
    run.note(
        "index_select of 2048 rows in HBM: us",
        round(replay_us(graph_of(lambda: torch.index_select(table, 0, rows, out=out))), 1),
    )
    source, numbers = host_rows(store, 1 << 20), rows.tolist()

    def one_by_one() -> None:
        for place, row in enumerate(numbers):
            out[place].copy_(source[row], non_blocking=True)

    run.note("2048 copies by the copy engine: us", round(timed_ms(one_by_one, 5) * 1e3))


def time_pool_a(run: Run, row_bytes: int) -> None:
    with registered_pool(LAYOUTS[row_bytes], A_LAYERS, A_LAYER_ROWS) as store:
        pool = BenchPool(store, A_LAYERS, store.num_rows // A_LAYERS, extents=False)
        gbps = link_gbps(store)
        run.note(f"large copy, {row_bytes} B rows' pool A: GB/s", round(gbps, 2))
        for batch, counts in A_CASES.items():
            for misses in counts:
                time_swap(run, pool, "A", batch, misses, gbps, fresh=False)
        for misses in (2, 128, 410):
            time_swap(run, pool, "A", 64, misses, gbps, fresh=True)
        if row_bytes == 1152:
            time_planning(run, pool)
        time_gathers(run, store, pool.layer_rows, "a layer of pool A", gbps)
        time_others(run, store)


def time_pool_b(run: Run, row_bytes: int) -> None:
    with registered_pool(LAYOUTS[row_bytes], B_LAYERS, b_layer_rows(row_bytes)) as store:
        layer_rows = store.num_rows // B_LAYERS
        gbps = link_gbps(store)
        run.note(f"large copy, {row_bytes} B rows' pool B: GB/s", round(gbps, 2))
        for extents in (True, False):
            pool = BenchPool(store, B_LAYERS, layer_rows, extents)
            for batch, counts in B_CASES.items():
                for misses in counts if extents else counts[-3:] if batch == 64 else ():
                    time_swap(run, pool, "B", batch, misses, gbps, fresh=True)
        time_gathers(run, store, store.num_rows, "pool B", gbps)
        for context in CONTEXTS:
            time_decode(run, store, context)


def time_decode(run: Run, store: RegisteredStore, context: int) -> None:
    figures = decode_figures(store, context, (0, 128, 410))
    for name, figure in figures.items():
        run.note(f"decode {context >> 10}K, {store.layout.row_bytes} B: {name}", round(figure, 3))
    if context == 1 << 17 and store.layout.row_bytes == 1152:
        faster = figures["full_prefix_copy_ms"] / figures["sac_first_step_ms"]
        run.note("full copy over first step after a 128K hit", round(faster, 1))
        swaps = figures["sac_first_step_ms"] - figures["sac_step_ms_0_misses"]
        run.note("the same, the step's other work taken off", round(figures["full_prefix_copy_ms"] / swaps, 1))
        run.bound(
            Bound(
                "128K: first step / (full copy / 30)",
                figures["sac_first_step_ms"] * 30 / figures["full_prefix_copy_ms"],
                1.0,
            )
        )


def time_lines(run: Run, path: Path) -> None:
    """Paced gathers beside the modelled lines of a file, and the error of each."""
    with registered_pool(LAYOUTS[1152], 1, A_LAYER_ROWS) as store:
        paced = PacedGather(store, 2048)
        run.note("launch beyond the pace: ns", paced.overhead_ns)
        for line in json.loads(path.read_text())["records"]:
            tier, count, asked_us = line["tier"], line["entries"], line["us"]
            rows = [torch.randint(0, store.num_rows, (count,)) for _ in range(PACED_ROUNDS)]
            pace = Pace.through(asked_us * 500, asked_us * 1e3, count)
            us = median(paced.gather(each, pace) for each in rows) / 1e3
            assert torch.equal(paced.out[:count], expected_rows(store.layout, rows[-1].to(DEVICE))), (
                "a paced gather brought other rows"
            )
            bare_us = median(paced.gather(each) for each in rows) / 1e3
            run.note(
                f"injected {tier} {count}: us (asked, bare)", (round(us, 2), round(asked_us, 2), round(bare_us, 2))
            )
            if count >= 256 and tier in ("cxl", "rdma"):
                run.bound(Bound(f"injected {tier} {count}: error", abs(us / asked_us - 1), 0.08))


def time_layouts(run: Run) -> None:
    """64 x 128 misses by the bytes of a layer and by how many tokens lie together; other rows in each replay."""
    layer_rows = b_layer_rows(1152)
    with registered_pool(LAYOUTS[1152], B_LAYERS, layer_rows) as store:
        for contexts in REGION_CONTEXTS:
            rows = min(contexts * CONTEXT_TOKENS, layer_rows)
            for tokens in (*SCATTERED_TOKENS, CONTEXT_TOKENS):
                pool = BenchPool(store, B_LAYERS, rows, tokens == CONTEXT_TOKENS, tokens)
                asked = BenchBatch(pool, 64, 128)
                us = swap_us(asked, CudaSwap(store, asked.buffers))
                run.note(
                    f"64 x 128, layer of {pool.layer_bytes / 1e9:.1f} GB, {tokens} tokens together: us", round(us, 1)
                )
                del asked
                torch.cuda.empty_cache()


def sweep(run: Run) -> None:
    for row_bytes, name in product((1152, 656), "AB"):
        layers, extents = (A_LAYERS, False) if name == "A" else (B_LAYERS, True)
        layer_rows = A_LAYER_ROWS if name == "A" else b_layer_rows(row_bytes)
        with registered_pool(LAYOUTS[row_bytes], layers, layer_rows) as store:
            pool = BenchPool(store, layers, store.num_rows // layers, extents)
            for batch, misses in ((1, 2048), (8, 410), (64, 64), (64, 128), (64, 410)):
                asked = BenchBatch(pool, batch, misses, fresh=extents)
                us = {
                    each: [swap_us(asked, CudaSwap(store, asked.buffers, gatherers=each)) for _ in range(2)]
                    for each in SWEEP
                }
                words = {"x".join(map(str, each)): [round(once, 1) for once in twice] for each, twice in us.items()}
                run.note(f"{name}, {row_bytes} B, {batch} x {misses}", words)
                del asked
                torch.cuda.empty_cache()


def plot(run: Run, path: Path) -> None:
    """Time over misses for batch 64, by pool, with the link and the peer beside it."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    for axis, name in zip(axes, ("A", "B"), strict=True):
        shown = [
            s for s in run.swaps if s["pool"] == name and s["batch"] == 64 and s["row_bytes"] == 1152 and s["misses"]
        ]
        for label, lines in _lines(shown, name):
            axis.plot([s["misses"] for s in lines], [s[label[0]] for s in lines], marker="o", label=label[1])
        axis.set(
            xscale="log",
            yscale="log",
            xlabel="misses per request",
            ylabel="us per layer",
            title=f"pool {name}, batch 64, 1152 B",
        )
        axis.legend()
    figure.savefig(path)


def _lines(shown: list[dict[str, object]], name: str) -> Iterator[tuple[tuple[str, str], list[dict[str, object]]]]:
    ours = [s for s in shown if s["fresh"] == (name == "B") and s["extents"] == (name == "B")]
    yield ("us", "swap-in"), ours
    yield ("peer_us", PEER), [s for s in ours if s.get("peer_us")]
    yield ("link_us", "bytes over the link"), ours


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--plot", type=Path, help="draw a picture here")
    parser.add_argument("--lines", type=Path, help="times by tier to inject: JSON of `cxlbed latency`")
    parser.add_argument("--pools", default="AB", help="A, B or AB; none with ''")
    parser.add_argument("--rows", default="1152,656", help="bytes of a row, comma-separated")
    parser.add_argument(
        "--layouts", action="store_true", help="time one swap-in by region and by tokens that lie together instead"
    )
    parser.add_argument("--sweep", action="store_true", help="time gathering blocks and warps instead")
    arguments = parser.parse_args()
    try:
        require_gpu()
    except GpuError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    run = Run()
    if arguments.sweep or arguments.layouts:
        (sweep if arguments.sweep else time_layouts)(run)
    else:
        for row_bytes in map(int, arguments.rows.split(",")):
            for name, time_pool in (("A", time_pool_a), ("B", time_pool_b)):
                if name in arguments.pools:
                    time_pool(run, row_bytes)
        if arguments.lines:
            time_lines(run, arguments.lines)
    run.note("card", card())
    missed = [bound.name for bound in run.bounds if not bound.held]
    print(f"{len(run.bounds) - len(missed)} of {len(run.bounds)} bounds held; missed: {missed}")
    if arguments.json:
        bounds = [{"name": b.name, "value": b.value, "at_most": b.at_most, "held": b.held} for b in run.bounds]
        record = {"peer": PEER, "figures": run.figures, "swaps": run.swaps, "bounds": bounds}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    if arguments.plot and run.swaps:
        plot(run, arguments.plot)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

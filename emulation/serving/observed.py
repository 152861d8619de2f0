"""What a real engine's benchmark wrote, as figures to set beside predicted ones. Knows sglang's and vLLM's files; runs nothing.

Three kinds, told by content: `sglang.bench_serving --output-file F --output-details` (JSON lines, one object per run; the last is
taken), `vllm bench serve --save-result --save-detailed` (one object), and what either prints ("Serving Benchmark Result"). With
details each request counts; without, the summary's own figures, and all requests are taken to be of the mean lengths."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emulation.errors import InputError
from emulation.files import read_text
from emulation.serving.intervals import METRICS

MOST_BYTES = 1 << 30
_DETAILS = ("input_lens", "output_lens", "ttfts", "itls")
_TITLE = "Serving Benchmark Result"
_PRINTED = re.compile(r"^\s*(?P<name>[A-Za-z0-9][^:\n]*?)(?:\s*\([^)]*\))?\s*:\s*(?P<value>[-+.\w]+)\s*$", re.MULTILINE)
_PRINTED_NAMES = {
    "successful requests": "completed",
    "failed requests": "failed",
    "benchmark duration": "duration",
    "total input tokens": "total_input_tokens",
    "total generated tokens": "total_output_tokens",
    "request throughput": "request_throughput",
    "output token throughput": "output_throughput",
    "max request concurrency": "max_concurrency",
    "maximum request concurrency": "max_concurrency",
    "traffic request rate": "request_rate",
    "request rate configured": "request_rate",
    **{f"{one} {name}": f"{one}_{key}_ms" for one in ("mean", "median", "p90", "p95", "p99") for name, key in (
        ("ttft", "ttft"), ("tpot", "tpot"), ("itl", "itl"), ("e2e latency", "e2e_latency"), ("e2el", "e2e_latency"))},
}  # fmt: skip
_PERCENTILES = {"median": 50, "p90": 90, "p95": 95, "p99": 99}


@dataclass(frozen=True)
class Observed:
    """One run of a real engine. figures: by the names of a serving record; lengths: (prompt, output) of each request, tokens, or of
    the mean one `completed` times; max_concurrency, request_rate: how requests came; None: not said, or all at once."""

    source: str
    run: int  # which of the file's runs, from 1
    runs: int
    completed: int
    failed: int
    per_request: bool
    lengths: tuple[tuple[int, int], ...]
    max_concurrency: int | None
    request_rate: float | None
    figures: Mapping[str, float]


def read_observed(path: Path) -> Observed:
    """The last run of a benchmark's file. Raises InputError for what is none, with file, field, value and rule."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"observed {path}: {path.stat().st_size} bytes, more than {MOST_BYTES}; give one run")
    except OSError as exc:
        raise InputError(f"observed {path}: {exc.strerror or exc}; name a file that can be read") from exc
    text = read_text("observed", path)
    if not text.lstrip().startswith("{") and _TITLE in text:
        return _of_run(path, _printed(text), 1, 1)
    runs = _json_runs(path, text)
    return _of_run(path, runs[-1], len(runs), len(runs))


def _json_runs(path: Path, text: str) -> list[dict[str, Any]]:
    """One object, or one per line."""
    try:
        runs = [json.loads(text)]
    except (ValueError, RecursionError):
        runs = [_json_line(path, number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not runs or not all(isinstance(run, dict) for run in runs):
        raise InputError(
            f"observed {path}: holds no run; known are sglang.bench_serving's --output-file, vllm bench serve's --save-result, and "
            f"what either prints ({_TITLE!r})"
        )
    return runs


def _json_line(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise InputError(
            f"observed {path}, line {number}: is no JSON ({exc}); known are the files of sglang.bench_serving and vllm bench serve"
        ) from exc


def _printed(text: str) -> dict[str, Any]:
    """The figures of the last summary that a benchmark printed."""
    found: dict[str, Any] = {}
    for line in _PRINTED.finditer(text[text.rindex(_TITLE) :]):
        name = _PRINTED_NAMES.get(line["name"].strip().lower())
        if name is not None:
            found[name] = _printed_number(line["value"])
    return found


def _printed_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # "not set"
        return None


def _of_run(path: Path, run: Mapping[str, Any], number: int, runs: int) -> Observed:
    detailed = all(isinstance(run.get(name), list) and run[name] for name in _DETAILS)
    if detailed:
        lengths, failed, figures = _of_requests(path, run)
    else:
        lengths, failed, figures = _of_summary(path, run)
    concurrency, rate = _number(path, run, "max_concurrency", 1), _rate(path, run)
    return Observed(
        source=_source(run),
        run=number,
        runs=runs,
        completed=len(lengths),
        failed=failed,
        per_request=detailed,
        lengths=lengths,
        max_concurrency=None if concurrency is None else int(concurrency),
        request_rate=rate,
        figures=figures,
    )


def _of_requests(path: Path, run: Mapping[str, Any]) -> tuple[tuple[tuple[int, int], ...], int, dict[str, float]]:
    """Lengths and figures of the requests that ended well, and how many did not."""
    count = len(run["ttfts"])
    errors = run.get("errors") or [""] * count
    for name, values in (*((name, run[name]) for name in _DETAILS), ("errors", errors)):
        if not isinstance(values, list) or len(values) != count:
            raise InputError(
                f"observed {path}: {name} does not have {count} entries, as ttfts has; one of each per request"
            )
    well = [place for place in range(count) if not errors[place] and run["output_lens"][place]]
    if not well:
        raise InputError(f"observed {path}: none of {count} requests ended well; their errors stand in 'errors'")
    lengths, ttft, itls = [], [], []
    for place in well:
        prompt, output = (_count(path, name, place, run[name][place]) for name in ("input_lens", "output_lens"))
        lengths.append((prompt, output))
        ttft.append(_seconds(path, "ttfts", place, run["ttfts"][place]))
        gaps = run["itls"][place]
        if not isinstance(gaps, list):
            raise InputError(f"observed {path}: itls[{place}]={str(gaps)[:80]!r} must be a list of seconds")
        itls.append([_seconds(path, "itls", place, gap) for gap in gaps])
    decoding = [sum(gaps) for gaps in itls]
    figures = {
        **_statistics("ttft", ttft),
        **_statistics(
            "tpot", [sum_ / (output - 1) for sum_, (_, output) in zip(decoding, lengths, strict=True) if output > 1]
        ),
        **_statistics("itl", [gap for gaps in itls for gap in gaps]),
        **_statistics("e2e_latency", [first + rest for first, rest in zip(ttft, decoding, strict=True)]),
    }
    if duration := _number(path, run, "duration", 0):
        figures |= {
            "duration": duration,
            "request_throughput": len(well) / duration,
            "output_throughput": sum(output for _, output in lengths) / duration,
        }
    return tuple(lengths), count - len(well), figures


def _of_summary(path: Path, run: Mapping[str, Any]) -> tuple[tuple[tuple[int, int], ...], int, dict[str, float]]:
    names = [name for name in METRICS if name.endswith(("_ms", "_throughput")) or name == "duration"]
    figures = {name: value for name in names if (value := _number(path, run, name, 0)) is not None}
    completed, prompts, outputs = (
        _number(path, run, name, 1) for name in ("completed", "total_input_tokens", "total_output_tokens")
    )
    if completed is None or prompts is None or outputs is None or not any(name.endswith("_ms") for name in figures):
        raise InputError(
            f"observed {path}: lacks {', '.join(_DETAILS)}, and completed, total_input_tokens, total_output_tokens or latencies "
            "in ms; record with --output-details (sglang) or --save-detailed (vLLM)"
        )
    mean = max(1, round(prompts / completed)), max(1, round(outputs / completed))
    return (mean,) * int(completed), int(_number(path, run, "failed", 0) or 0), figures


def _statistics(name: str, seconds: Sequence[float]) -> dict[str, float]:
    """Mean and percentiles in ms; nothing of nothing."""
    if not seconds:
        return {}
    values = np.asarray(seconds) * 1e3
    percentiles = {f"{one}_{name}_ms": float(np.percentile(values, percent)) for one, percent in _PERCENTILES.items()}
    return {f"mean_{name}_ms": float(values.mean()), **percentiles}


def _source(run: Mapping[str, Any]) -> str:
    """vLLM's files name the endpoint, sglang's the server's own figures; what is printed is the same."""
    if "model_id" in run or "tokenizer_id" in run:
        return "vllm bench serve"
    return "sglang.bench_serving" if "backend" in run or "dataset_name" in run else "a printed summary"


def _count(path: Path, name: str, place: int, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 1 << 31:
        raise InputError(f"observed {path}: {name}[{place}]={str(value)[:80]!r} must be a whole number of at least 1")
    return value


def _seconds(path: Path, name: str, place: int, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise InputError(f"observed {path}: {name}[{place}]={str(value)[:80]!r} must be seconds, at least 0")
    return float(value)


def _number(path: Path, run: Mapping[str, Any], name: str, least: float) -> float | None:
    value = run.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value < math.inf:
        raise InputError(f"observed {path}: {name}={str(value)[:80]!r} must be a number of at least {least:g}")
    return float(value)


def _rate(path: Path, run: Mapping[str, Any]) -> float | None:
    """Requests per second; None where all came at once, which is told by infinity."""
    value = run.get("request_rate")
    if value is None or str(value).lower() in ("inf", "infinity"):
        return None
    return _number(path, {"request_rate": value}, "request_rate", 1e-6)

"""The requests of a run as CSV: one line each, in the order in which they ended. Knows recorders; draws and prints nothing."""

from collections.abc import Iterator

from emulation.serving.metrics import NS_PER_MS, Recorder
from emulation.serving.workload import NS_PER_S

COLUMNS = "record,tier,arrived_s,input_len,output_len,ttft_ms,tpot_ms,e2e_latency_ms\n"


def request_lines(number: int, tier: str, recorder: Recorder) -> Iterator[str]:
    """Lines of COLUMNS, of the `number`-th record of a sweep. tpot_ms is empty where one token alone came."""
    requests = zip(
        recorder.arrived_ns, recorder.prompt_lens, recorder.output_lens, recorder.ttft_ns, recorder.e2e_ns, strict=True
    )
    for arrived_ns, prompt_len, output_len, ttft_ns, e2e_ns in requests:
        steps = output_len - 1
        tpot_ms = f"{(e2e_ns - ttft_ns) / steps / NS_PER_MS:.6f}" if steps else ""
        yield (
            f"{number},{tier},{arrived_ns / NS_PER_S:.9f},{prompt_len},{output_len},{ttft_ns / NS_PER_MS:.6f},{tpot_ms},"
            f"{e2e_ns / NS_PER_MS:.6f}\n"
        )

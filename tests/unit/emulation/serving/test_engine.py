"""The engine beside closed forms, and what always holds: nothing lost, bytes and times conserved."""

import time
from dataclasses import replace
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulation.errors import InputError
from emulation.serving.agenda import Agenda
from emulation.serving.cluster import simulate
from emulation.serving.costs import ATTENTION_SHARE, CostModel
from emulation.serving.routes import ClusterRoutes
from emulation.serving.spec import ENGINES, PLACEMENTS, ClusterSpec, EngineCosts, ModelShape, ServerSpec
from emulation.serving.workload import ClosedLoop, OpenLoop, Request
from emulation.timing.misses import BufferLaw, layer_shares
from emulation.timing.tiers import SERVED

COSTS = EngineCosts()
STEADY = replace(COSTS, wait_spread=0.0)  # every request waits alike, so that closed forms are exact
MODEL = ModelShape()


def figures(outcome):
    return outcome.recorder.summary()


def spent_share(outcome, state):
    return getattr(outcome.recorder.spent, state) / outcome.recorder.spent.total_ns()


class Listed:
    """A workload of given requests, all at their times."""

    max_concurrency = None
    num_prefixes = 1
    block_tokens = 512

    def __init__(self, *requests):
        self._requests = requests
        self.num_prompts = len(requests)
        self.longest_len = max(request.prompt_len + request.output_len for request in requests)

    def requests(self):
        return iter(self._requests)


def test_one_request_on_an_idle_server_takes_its_closed_form():
    spec = ClusterSpec("dram", costs=STEADY)
    done = figures(simulate(spec, ClosedLoop(1, 1, 32768, 512)))
    pages = 32767 / 64 * 61
    load_ns = COSTS.admission_ns + pages * (COSTS.index_page_ns + ClusterRoutes(spec).page_ns())
    assert done.ttft_ms.mean * 1e6 == pytest.approx(COSTS.tokenise_token_ns * 32768 + load_ns)
    context = 32768 + 256
    compute_ns = COSTS.step_base_ns + COSTS.sparse_step_ns + COSTS.step_request_ns
    compute_ns += (COSTS.step_context_token_ns + COSTS.step_longest_token_ns) * context
    entries = BufferLaw.for_context(32768).total_misses(6144, 511) / 511
    fetch_ns = sum(ClusterRoutes(spec).fetch_ns(entries * share) for share in layer_shares(61))
    assert done.tpot_ms.mean * 1e6 == pytest.approx(compute_ns + fetch_ns)


def test_a_prefix_of_which_a_part_is_found_takes_the_load_of_that_and_the_prefill_of_the_rest():
    request = Request(0.0, 4096, 2, hash_ids=(1, 2, 3, 4, 5, 6, 7, 8))
    later = Request(60e9, 8192, 2, hash_ids=(*request.hash_ids, *range(10, 18)))
    spec = ClusterSpec("dram", costs=STEADY)
    recorder = simulate(spec, Listed(request, later)).recorder
    load_ns = COSTS.admission_ns + 4096 / 64 * 61 * (COSTS.index_page_ns + ClusterRoutes(spec).page_ns())
    prefill_ns = COSTS.prefill_token_ns * 4096 + COSTS.prefill_token_slope_ns * (8192**2 - 4096**2)
    prefill_ns *= ATTENTION_SHARE + (1 - ATTENTION_SHARE) / 8
    assert recorder.ttft_ns[-1] == pytest.approx(COSTS.tokenise_token_ns * 8192 + load_ns + prefill_ns)


def test_hbm_only_fetches_nothing_and_has_no_cost_of_the_sparse_path():
    outcome = simulate(ClusterSpec("hbm", free_hbm_prefix=True), ClosedLoop(8, 8, 16384, 100))
    compute_ns = COSTS.step_base_ns + COSTS.step_request_ns
    compute_ns += (COSTS.step_context_token_ns + COSTS.step_longest_token_ns) * (16384 + 50)
    assert outcome.recorder.spent.compute / (8 * 99) == pytest.approx(compute_ns)
    assert outcome.bytes_by_link() == {}


def test_hbm_only_has_its_plateau_where_its_hbm_is_full():
    """Four whole requests of 32K fit a GPU: from 32 in flight on, others wait and throughput stays."""
    spec = ClusterSpec("hbm", free_hbm_prefix=True)
    limit = spec.running_limit(32768 + 1024)
    rates = [
        figures(simulate(spec, ClosedLoop(4 * n, n, 32768, 1024))).output_throughput
        for n in (limit // 2, limit, 3 * limit)
    ]
    assert limit == 32
    assert rates[0] < 0.7 * rates[1]
    assert rates[2] == pytest.approx(rates[1], rel=0.03)


def test_equal_requests_of_a_gpu_are_admitted_one_after_the_other():
    """Mean wait of n requests is (n + 1) / 2 times that of one: those admitted first wait for nobody."""
    tokenise_ms = COSTS.tokenise_token_ns * 32768 / 1e6
    spec = ClusterSpec("dram", costs=STEADY)
    alone, four = (figures(simulate(spec, ClosedLoop(8 * n, 8 * n, 32768, 100))).ttft_ms.mean for n in (1, 4))
    assert four - tokenise_ms == pytest.approx(2.5 * (alone - tokenise_ms))


def test_prefill_of_one_rank_is_faster_than_of_all_and_slower_than_its_share():
    def ttft(concurrency):
        return figures(simulate(ClusterSpec("cxl"), ClosedLoop(concurrency, concurrency, 16384, 2, 1))).ttft_ms.mean

    assert ttft(8) / 8 < ttft(1) < ttft(8)


def test_decode_stands_still_while_another_gpu_prefills():
    """A second request arrives in the middle of the first one's decode: that decode ends one prefill later."""
    first = Request(0.0, 16384, 1001, cached=True)
    late = Request(20e9, 16384, 1)
    alone = simulate(ClusterSpec("dram"), Listed(first)).recorder
    both = simulate(ClusterSpec("dram"), Listed(first, late)).recorder
    delay_ns = both.e2e_ns[-1] - alone.e2e_ns[0]
    assert delay_ns == pytest.approx(both.spent.stalled)
    assert delay_ns == pytest.approx(both.ttft_ns[0] - COSTS.tokenise_token_ns * 16384)


def test_a_request_is_admitted_when_its_hbm_fits_and_waits_when_a_byte_is_missing():
    need = ClusterSpec("hbm").request_hbm_bytes(16384 + 64)
    for spare, queued in ((0, False), (-1, True)):
        server = ServerSpec(num_gpus=1, hbm_kv_bytes=2 * need + spare)
        costs = replace(COSTS, whole_hbm_share=1.0)
        spec = ClusterSpec("hbm", server=server, free_hbm_prefix=True, costs=costs)
        outcome = simulate(spec, ClosedLoop(2, 2, 16384, 64))
        first, second = outcome.recorder.ttft_ns
        assert (second > 2.5 * first) is queued
        assert spec.running_limit(16384 + 64) == (1 if queued else 2)


def test_a_request_too_large_for_the_tier_is_refused_in_words():
    with pytest.raises(InputError, match=r"tier 'hbm': a request of .* GB of one GPU's 40 GB"):
        simulate(ClusterSpec("hbm"), ClosedLoop(1, 1, 1 << 20, 16))


@pytest.mark.parametrize("concurrency", [1, 8, 64, 192])
def test_a_prefetch_takes_what_its_own_bytes_take_however_many_are_under_way(concurrency):
    spec = ClusterSpec("rdma", costs=STEADY)
    recorder = simulate(spec, ClosedLoop(concurrency, concurrency, 32768, 2)).recorder
    expected = CostModel(spec, ClusterRoutes(spec)).transfer_ns(32767)
    assert recorder.spent.prefetch / recorder.completed == pytest.approx(expected)


def test_transfers_beyond_the_wire_of_a_gpus_nic_wait_for_it():
    """With no other bound, each byte of a GPU's requests crosses its wire once."""
    costs = replace(STEADY, prefetch_request_ns=1.0, prefetch_ops_per_entry=1e-6)
    recorder = simulate(ClusterSpec("rdma", costs=costs), ClosedLoop(32, 32, 32768, 2)).recorder
    wire_ns = 32767 * MODEL.token_bytes / 12.5
    assert recorder.spent.prefetch / 32 == pytest.approx(2.5 * wire_ns, rel=1e-6)


def test_decode_stands_still_for_a_part_of_each_transfers_time():
    first = Request(0.0, 16384, 2001, cached=True)
    late = Request(30e9, 65536, 2, cached=True)
    spec = ClusterSpec("rdma", costs=STEADY)
    recorder = simulate(spec, Listed(first, late)).recorder
    costs = CostModel(spec, ClusterRoutes(spec))
    own_ns, late_ns = (costs.transfer_ns(tokens) * COSTS.prefetch_hold for tokens in (16383, 65535))
    assert recorder.spent.slowed == pytest.approx(own_ns + 2 * late_ns)


def test_prefixes_that_do_not_fit_their_home_are_computed_anew():
    fits = ClosedLoop(16, 8, 16384, 16)
    home = 16 * (16384 + 16) * (MODEL.token_bytes + MODEL.index_bytes)
    for spare, cached in ((0, 16 * 16383), (-1, 0)):
        spec = ClusterSpec("dram", server=ServerSpec(dram_bytes=home + spare))
        assert simulate(spec, fits).num_cached_tokens == cached


def test_a_pool_finds_the_prefixes_of_all_servers_and_local_dram_those_of_its_own():
    """Two requests of one prefix, at once, so that they go to two servers."""
    requests = [Request(0.0, 1024, 2, hash_ids=(1, 2)) for _ in range(2)]
    cached = {tier: simulate(ClusterSpec(tier, num_servers=2), Listed(*requests)).num_cached_tokens for tier in SERVED}
    assert cached == {"cxl": 1023, "rdma": 1023, "dram": 0, "hbm": 0}


def test_same_seed_same_bytes_and_another_seed_others():
    def outcome(seed):
        return simulate(ClusterSpec("cxl", num_servers=2), OpenLoop(60, 3.0, 16384, 128, seed=seed))

    def everything(run):
        return repr((run.recorder.summary(), run.bytes_by_link(), run.utilisation_by_link(), run.recorder.spent))

    assert everything(outcome(1)) == everything(outcome(1))
    assert everything(outcome(1)) != everything(outcome(2))


def test_the_papers_longest_run_takes_less_than_its_bound():
    began = time.process_time()
    simulate(ClusterSpec("cxl"), ClosedLoop(512, 64, 131072, 1024))
    assert time.process_time() - began <= 5.0


def test_cost_follows_events_not_tokens(monkeypatch):
    """Thirty times the tokens take the same number of changes of composition."""
    calls = []
    call = Agenda.call
    monkeypatch.setattr(Agenda, "call", lambda self, *args: calls.append(1) or call(self, *args))

    def events(output_len):
        calls.clear()
        simulate(ClusterSpec("cxl"), ClosedLoop(64, 16, 32768, output_len))
        return len(calls)

    assert events(3000) == events(100)


def test_servers_on_one_pool_slow_one_another_unless_it_grows_with_them():
    """With a pool that grows, each server's burst spreads over more devices than it would have alone."""

    def tpot(servers, devices):
        spec = ClusterSpec("cxl", num_servers=servers, num_devices=devices)
        return figures(simulate(spec, ClosedLoop(64 * servers, 64 * servers, 131072, 256))).tpot_ms.mean

    assert tpot(8, 2) > 1.3 * tpot(1, 2)
    assert tpot(4, 8) < tpot(1, 2)


def test_a_pool_crowded_by_servers_is_full_and_no_fuller():
    spec = ClusterSpec("cxl", num_servers=16, num_devices=1)
    outcome = simulate(spec, ClosedLoop(16 * 32, 16 * 32, 131072, 64))
    busiest = max(outcome.utilisation_by_link().items(), key=lambda link: link[1])
    assert busiest[0] == "pool.device0.read"
    assert 0.8 < busiest[1] <= 1


def test_an_overlooked_byte_is_noticed(monkeypatch):
    """The conservation test itself is tested: a link that forgets a part of its bytes fails it."""
    from emulation.timing.links.flows import Links

    carry = Links.carry
    monkeypatch.setattr(Links, "carry", lambda self, flow, amount: carry(self, flow, amount * 0.999))
    with pytest.raises(AssertionError):
        check_conservation(simulate(ClusterSpec("cxl"), ClosedLoop(8, 4, 16384, 64)), 8)


@st.composite
def runs(draw):
    spec = ClusterSpec(
        draw(st.sampled_from(list(SERVED))),
        num_servers=draw(st.integers(1, 4)),
        num_devices=draw(st.integers(1, 5)),
        hot_buffer=draw(st.sampled_from([2048, 4096, 6144])),
        striped=draw(st.booleans()),
        free_hbm_prefix=draw(st.booleans()),
        engine=draw(st.sampled_from(ENGINES)),
        prefill_gpus=1,
        placement=draw(st.sampled_from(PLACEMENTS)),
        server=ServerSpec(num_gpus=draw(st.integers(2, 8)), hbm_kv_bytes=draw(st.sampled_from([15, 40])) * 10**9),
    )
    prompt_len, output_len = draw(st.integers(1, 131072)), draw(st.integers(1, 600))
    num_prompts, round_number = draw(st.integers(1, 60)), draw(st.sampled_from([1, 2]))
    if draw(st.booleans()):
        return spec, ClosedLoop(num_prompts, draw(st.integers(1, 48)), prompt_len, output_len, round_number)
    rate, burstiness = draw(st.floats(0.05, 50)), draw(st.sampled_from([0.3, 1.0]))
    return spec, OpenLoop(num_prompts, rate, prompt_len, output_len, burstiness, round_number, draw(st.integers(0, 9)))


@settings(max_examples=60, deadline=None)
@given(runs())
def test_nothing_is_lost_and_bytes_times_and_bandwidths_are_kept(run):
    spec, workload = run
    if spec.running_limit(workload.longest_len):
        check_conservation(simulate(spec, workload), workload.num_prompts)


def check_conservation(outcome, num_prompts):
    recorder, spec, links = outcome.recorder, outcome.spec, outcome.links
    assert recorder.completed == num_prompts
    # Little's law: the time all requests spent in all states is the sum of their latencies.
    assert recorder.spent.total_ns() == pytest.approx(sum(recorder.e2e_ns), rel=1e-6)
    duration_ns, mean_latency_ns = recorder.finished_ns, sum(recorder.e2e_ns) / num_prompts
    in_system = recorder.spent.total_ns() / duration_ns
    assert in_system == pytest.approx(num_prompts / duration_ns * mean_latency_ns, rel=1e-6)
    # Bytes on links are those of missed rows and of loaded indexer keys.
    if spec.fetch_profile is not None:
        missed = recorder.missed_entries * MODEL.token_bytes
        loaded = outcome.num_cached_tokens * MODEL.index_bytes
        if spec.engine == "separated":  # the GPU that decodes loads all of them again
            loaded += recorder.num_input_tokens * MODEL.index_bytes
        by_name = dict(zip(links.names, links.num_bytes, strict=True))
        homes = sum(carried for name, carried in by_name.items() if is_home(name))
        gpus = sum(carried for name, carried in by_name.items() if name.endswith("gpus.read"))
        assert homes == pytest.approx(missed + loaded, rel=1e-6, abs=1)
        assert gpus == pytest.approx(homes, rel=1e-9, abs=1)
    # No link above its bandwidth, at any time and on average.
    assert all(load <= 1 + 1e-9 for load in links.peak_load)
    assert all(load <= 1 + 1e-9 for load in outcome.utilisation_by_link().values())


def is_home(link):
    return link.endswith(".read") and ("device" in link or "dram" in link)


def test_prefetched_bytes_are_the_cached_rows():
    outcome = simulate(ClusterSpec("rdma"), ClosedLoop(32, 16, 32768, 16))
    nics = sum(carried for link, carried in outcome.bytes_by_link().items() if "nic" in link and link.endswith("read"))
    assert nics == pytest.approx(outcome.num_cached_tokens * MODEL.token_bytes)


def test_populating_writes_every_new_row_and_its_indexer_keys_once():
    outcome = simulate(ClusterSpec("cxl"), ClosedLoop(8, 8, 4096, 1, 1))
    written = sum(n for link, n in outcome.bytes_by_link().items() if "device" in link and link.endswith("write"))
    assert written == pytest.approx(8 * 4096 * (MODEL.token_bytes + MODEL.index_bytes))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tier": "tape"}, "tier='tape' is unknown; take one of"),
        ({"tier": "cxl", "num_devices": 0}, "num_devices=0 must be at least 1"),
        ({"tier": "cxl", "hot_buffer": 2047}, "hot_buffer=2047 is below top_k; give at least 2048"),
        ({"tier": "cxl", "overlap": 1.0}, "overlap=1.0 must lie between 0 and 1"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused(change, words):
    with pytest.raises(InputError, match=words):
        ClusterSpec(**change)


def test_every_parameter_of_the_engine_has_an_effect():
    """A cost that changes nothing would be a parameter that means nothing."""
    workloads = ClosedLoop(16, 16, 16384, 16, 1), ClosedLoop(16, 16, 16384, 16, 2)

    def throughputs(costs):
        return [
            figures(simulate(ClusterSpec(tier, costs=costs), workload)).output_throughput
            for tier in ("dram", "rdma")
            for workload in workloads
        ] + [figures(simulate(ClusterSpec("hbm", costs=costs), ClosedLoop(64, 64, 16384, 16))).itl_ms]

    usual = throughputs(COSTS)
    for name, value in vars(COSTS).items():
        changed = replace(COSTS, **{name: value * 0.8})
        assert throughputs(changed) != usual, name


def test_running_limit_counts_gpus_and_home():
    spec = ClusterSpec("cxl", num_servers=2)
    by_hbm = spec.server.hbm_kv_bytes // spec.request_hbm_bytes(132096) * 16
    assert spec.running_limit(132096) == by_hbm
    small = replace(spec, device_bytes=ceil(1.5 * 132096 * (MODEL.token_bytes + MODEL.index_bytes)))
    assert small.running_limit(132096) == 3

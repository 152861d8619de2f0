"""Shares of links beside their closed forms."""

import pytest

from emulation.serving.lockstep import Lockstep
from emulation.serving.routes import ClusterRoutes
from emulation.serving.spec import ClusterSpec
from emulation.timing.links.flows import Links, spread
from emulation.timing.path import Transfer, default_path
from emulation.timing.profile import Bandwidth, load_profile


def one_link(rate=10.0):
    links = Links()
    return links, links.add("link", Bandwidth(rate, rate))


def test_an_idle_link_gives_all_its_bandwidth():
    links, link = one_link()
    assert links.squeeze({link: 50.0}, {}) == (5.0, 0.0)


def test_others_leave_what_they_do_not_use_and_the_owner_does_not_squeeze_itself():
    links, link = one_link()
    others, own = {link: 6.0}, {link: 2.0}
    links.exchange({}, others)
    links.exchange({}, own)
    assert links.squeeze({link: 8.0}, own) == (pytest.approx(2.0), pytest.approx(0.6))
    links.exchange(others, {})
    assert links.squeeze({link: 8.0}, own) == (pytest.approx(0.8), pytest.approx(0.0))


@pytest.mark.parametrize("num_servers", [2, 3, 10, 64])
@pytest.mark.parametrize("compute_ns", [0.0, 30.0, 3000.0])
def test_bursts_of_many_servers_never_exceed_the_link_and_meet_the_fixed_point(num_servers, compute_ns):
    """Equal servers with burst w and compute c settle at T = c + w / (1 - (n - 1) w / T)."""
    links, link = one_link()
    burst = {link: 100.0}  # w = 10 ns
    flows = [{} for _ in range(num_servers)]
    for _ in range(400):
        for server, flow in enumerate(flows):
            squeezed_ns, _ = links.squeeze(burst, flow)
            flows[server] = {link: 100.0 / (compute_ns + squeezed_ns)}
            links.exchange(flow, flows[server])
            assert links.load[link] <= 1 + 1e-9
    step_ns = 100.0 * num_servers / sum(flow[link] for flow in flows)
    assert step_ns == pytest.approx(fixed_point_ns(num_servers, compute_ns), rel=0.01)


def fixed_point_ns(num_servers, compute_ns, burst_ns=10.0):
    low, high = burst_ns * num_servers, burst_ns * num_servers + compute_ns
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        shorter = compute_ns + burst_ns / (1 - (num_servers - 1) * burst_ns / middle) < middle
        low, high = (low, middle) if shorter else (middle, high)
    return low


@pytest.mark.parametrize("tier", ["dram", "cxl"])
@pytest.mark.parametrize("entries", [1, 64, 500, 2048])
def test_one_gpus_fetch_takes_the_closed_form_of_its_path(tier, entries):
    fabric = ClusterRoutes(ClusterSpec(tier, striped=True))
    profile = load_profile(ClusterSpec(tier).policy.fetch_profile)
    expected = default_path(profile).idle_ns(Transfer(entries, entries * 1152))
    assert fabric.fetch_ns(entries, 0.0, 0.0) == pytest.approx(expected, abs=2)


def test_a_request_is_whole_in_the_device_of_its_rank_unless_striped():
    whole, striped = (ClusterRoutes(ClusterSpec("cxl", num_devices=2, striped=striped)) for striped in (False, True))
    flows = [spread(fabric.server_routes(0), [1000.0] + [0.0] * 7, write=False) for fabric in (whole, striped)]
    by_name = [
        {fabric.links.names[link]: carried for link, carried in flow.items()}
        for fabric, flow in zip((whole, striped), flows, strict=True)
    ]
    assert by_name[0]["pool.device0.read"] == 1000 and "pool.device1.read" not in by_name[0]
    assert by_name[1]["pool.device0.read"] == by_name[1]["pool.device1.read"] == 500


def test_ranks_map_to_devices_round_robin_across_servers():
    fabric = ClusterRoutes(ClusterSpec("cxl", num_servers=2, num_devices=16))
    routes = [*fabric.server_routes(0), *fabric.server_routes(1)]
    devices = [fabric.links.names[route[-1][0]] for route in routes]
    assert devices == [f"pool.device{rank}.read" for rank in range(16)]


def test_jobs_of_a_progress_end_when_their_work_is_done_and_not_before():
    progress = Lockstep()
    progress.add(100.0, "long")
    progress.add(40.0, "short")
    progress.rate = 2.0
    assert progress.next_end_in() == 20.0
    progress.advance(19.999)
    assert progress.pop_ended() == []
    progress.advance(0.001)
    progress.advance_to_first()
    assert progress.pop_ended() == ["short"]
    assert progress.next_end_in() == pytest.approx(30.0)


def test_a_job_added_later_ends_by_its_own_work():
    progress = Lockstep()
    progress.add(100.0, "first")
    progress.rate = 1.0
    progress.advance(90.0)
    progress.add(5.0, "second")
    progress.advance(5.0)
    assert progress.pop_ended() == ["second"]

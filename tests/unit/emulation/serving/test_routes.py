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
    return links, links.add("link", Bandwidth(rate, rate)).read


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
    cluster = ClusterRoutes(ClusterSpec(tier, striped=True))
    profile = load_profile(ClusterSpec(tier).policy.fetch_profile)
    expected = default_path(profile).idle_ns(Transfer(entries, entries * 1152))
    assert cluster.fetch_ns(entries, 0.0, 0.0) == pytest.approx(expected, abs=2)


def test_a_request_is_whole_in_the_device_of_its_rank_unless_striped():
    whole, striped = (ClusterRoutes(ClusterSpec("cxl", num_devices=2, striped=striped)) for striped in (False, True))
    flows = [spread(cluster.server_routes(0).read, [1000.0] + [0.0] * 7) for cluster in (whole, striped)]
    by_name = [
        {cluster.links.names[link]: carried for link, carried in flow.items()}
        for cluster, flow in zip((whole, striped), flows, strict=True)
    ]
    assert by_name[0]["pool.device0.read"] == 1000 and "pool.device1.read" not in by_name[0]
    assert by_name[1]["pool.device0.read"] == by_name[1]["pool.device1.read"] == 500


def test_ranks_map_to_devices_round_robin_across_servers():
    cluster = ClusterRoutes(ClusterSpec("cxl", num_servers=2, num_devices=16))
    routes = [*cluster.server_routes(0).read, *cluster.server_routes(1).read]
    devices = [cluster.links.names[route[-1][0]] for route in routes]
    assert devices == [f"pool.device{rank}.read" for rank in range(16)]


def test_a_write_crosses_the_links_of_its_read_in_the_other_direction():
    cluster = ClusterRoutes(ClusterSpec("cxl", num_devices=2))
    routes = cluster.server_routes(0)
    for read, write in zip(routes.read, routes.write, strict=True):
        names = [[cluster.links.names[link] for link, _ in route] for route in (read, write)]
        assert [name.removesuffix(".read") for name in names[0]] == [name.removesuffix(".write") for name in names[1]]
        assert [share for _, share in read] == [share for _, share in write]


def test_a_links_two_directions_have_numbers_rates_and_loads_of_their_own():
    links = Links()
    link = links.add("link", Bandwidth(10.0, 5.0))
    links.exchange({}, {link.write: 2.5})
    assert [links.names[number] for number in link] == ["link.read", "link.write"]
    assert (links.load[link.read], links.load[link.write]) == (0.0, 0.5)


def test_jobs_in_lockstep_end_when_their_work_is_done_and_not_before():
    lockstep = Lockstep()
    lockstep.add(100.0, "long")
    lockstep.add(40.0, "short")
    lockstep.rate = 2.0
    assert lockstep.next_end_in() == 20.0
    lockstep.done += 2.0 * 19.999
    assert lockstep.pop_ended() == []
    lockstep.done += 2.0 * 0.001
    lockstep.advance_to_first()
    assert lockstep.pop_ended() == ["short"]
    assert lockstep.next_end_in() == pytest.approx(30.0)


def test_a_job_added_later_ends_by_its_own_work():
    lockstep = Lockstep()
    lockstep.add(100.0, "first")
    lockstep.rate = 1.0
    lockstep.done += 90.0
    lockstep.add(5.0, "second")
    lockstep.done += 5.0
    assert lockstep.pop_ended() == ["second"]

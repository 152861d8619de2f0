"""The links that GPUs of a cluster share on their way to KV: who crosses which, their loads and their bytes.
Knows profiles, bandwidths and routes, no requests and no time of day.

Bandwidths, latencies and loaded-latency curves are those of emulation.timing's profiles, and what one GPU takes for its own
rows is the closed form of its LinkPath. What is new here is the sharing by flows instead of single transfers: all GPUs of a
server read at the same moments (lockstep), so their burst takes bytes / bandwidth on each link; another server's flow of
load L leaves it the share 1 - L. Then no link ever carries more than its bandwidth, whatever the number of servers: a
burst of w ns of link time takes T >= w / (1 - L), so its own load w / T is at most 1 - L."""

from bisect import bisect
from typing import NamedTuple

from emulation.serving.spec import ClusterSpec
from emulation.timing.links.flows import Duplex, Links, Route
from emulation.timing.misses import layer_shares
from emulation.timing.path import Transfer, default_path
from emulation.timing.profile import Bandwidth, Profile
from sac_runtime.rows.layout import INDEX_PAGE_TOKENS

_ONE_BYTE = Transfer(1, 1)


class ServerRoutes(NamedTuple):
    """By GPU of one server: the route of its reads, and that of its writes over the same links."""

    read: list[Route]
    write: list[Route]


class ClusterRoutes:
    """The links of a cluster and each GPU's routes over them."""

    def __init__(self, spec: ClusterSpec) -> None:
        self.spec = spec
        self.links = Links()
        profile = spec.fetch_profile
        self.fetch_path = default_path(profile) if profile else None
        self.prefetch_profile = spec.prefetch_profile
        self._row_bytes = spec.model.row_bytes
        self._shares = layer_shares(spec.model.num_layers)
        self._rest = [sum(self._shares[layer:]) for layer in range(spec.model.num_layers + 1)]
        self._crossed: dict[int, list[list[tuple[Duplex, float]]]] = {}
        self._devices = self._add_pool() if spec.policy.home == "pool" else []

    def server_routes(self, server: int) -> ServerRoutes:
        """The routes of each GPU of a server; empty ones where all KV is in HBM."""
        crossed = self.crossed_links(server)
        read: list[Route] = [[(link.read, share) for link, share in links] for links in crossed]
        write: list[Route] = [[(link.write, share) for link, share in links] for links in crossed]
        return ServerRoutes(read, write)

    def server_nics(self, server: int) -> list[Duplex]:
        """For each GPU of a server the NIC that prefixes cross; empty where nothing is prefetched."""
        if self.prefetch_profile is None:
            return []
        adapter = self.prefetch_profile.adapter
        return [self.links.add(f"server{server}.nic{gpu}", adapter) for gpu in range(self.spec.server.num_gpus)]

    def layers_fetch_ns(self, entries: float, step_burst_ns: float, load: float) -> float:
        """Time that a step's fetches take, all layers: `entries` rows per layer (mean) of the fullest GPU; the server's burst of
        the whole step takes `step_burst_ns` on the shared links, which others load to `load` (0..1).

        Layers differ in misses (`layer_shares`), and no fetch is shorter than the profile's floor: the layers with few
        misses take the floor, the others their share."""
        path = self.fetch_path
        if path is None or not entries:
            return 0.0
        profile, num_layers = path.profile, self.spec.model.num_layers
        byte_ns, late_ns = path.loaded_ns(_ONE_BYTE, load)
        served_ns = max(byte_ns * entries * self._row_bytes, entries * profile.op_ns, step_burst_ns / num_layers)
        late_ns += profile.request_ns
        under = bisect(self._shares, (profile.floor_ns - late_ns) / served_ns)
        return under * profile.floor_ns + (num_layers - under) * late_ns + served_ns * self._rest[under]

    def fetch_ns(self, entries: float, burst_ns: float = 0.0, load: float = 0.0) -> float:
        """The same for one layer of exactly `entries` misses, whose burst takes `burst_ns`."""
        path = self.fetch_path
        if path is None or not entries:
            return 0.0
        byte_ns, late_ns = path.loaded_ns(_ONE_BYTE, load)
        served_ns = max(byte_ns * entries * self._row_bytes, entries * path.profile.op_ns, burst_ns)
        return max(path.profile.floor_ns, late_ns + path.profile.request_ns + served_ns)

    def page_ns(self) -> float:
        """Time of one page of indexer keys on the way to a GPU, beside what the engine takes to start its copy."""
        if self.fetch_path is None:
            return 0.0
        page = Transfer(1, self.spec.model.index_token_bytes * INDEX_PAGE_TOKENS)
        reader_ns, _ = self.fetch_path.loaded_ns(page)
        return self.fetch_path.profile.latency_ns() + reader_ns

    def is_shared(self, link: Duplex) -> bool:
        """Whether several servers cross a link: the pool's."""
        return self.spec.num_servers > 1 and any(link in route for route in self._devices)

    def gpus(self, server: int) -> range:
        """The GPUs of a server by number."""
        return range(self.spec.server.num_gpus)

    def crossed_links(self, server: int) -> list[list[tuple[Duplex, float]]]:
        """For each GPU of a server: the links that its bytes cross, and the share of the bytes on each. The first of them are the
        GPUs' own."""
        if server not in self._crossed:
            self._crossed[server] = self._crossed_links(server)
        return self._crossed[server]

    def _crossed_links(self, server: int) -> list[list[tuple[Duplex, float]]]:
        if self.fetch_path is None:
            return [[] for _ in range(self.spec.server.num_gpus)]
        profile = self.fetch_path.profile
        gpus = self._add_gpus(server, profile)
        if self.spec.policy.home == "server":
            homes = [self.links.add(f"server{server}.dram{i}", profile.device) for i in range(self._num_sockets)]
            return [
                [(gpus, 1.0), (homes[self._socket(gpu)], 1.0), *self._nic_route(server, gpu, profile)]
                for gpu in range(self.spec.server.num_gpus)
            ]
        adapters = [self.links.add(f"server{server}.adapter{i}", profile.adapter) for i in range(self._num_sockets)]
        return [
            [(gpus, 1.0), (adapters[self._socket(gpu)], 1.0), *self._device_route(server, gpu)]
            for gpu in range(self.spec.server.num_gpus)
        ]

    @property
    def _num_sockets(self) -> int:
        return self.spec.server.num_sockets

    def _socket(self, gpu: int) -> int:
        return gpu * self._num_sockets // self.spec.server.num_gpus

    def _add_gpus(self, server: int, profile: Profile) -> Duplex:
        """The GPUs' own links, counted as one: they are equal, and `fetch_ns` sees to the fullest."""
        num_gpus = self.spec.server.num_gpus
        rates = profile.reader.read_bytes_per_ns * num_gpus, profile.reader.write_bytes_per_ns * num_gpus
        return self.links.add(f"server{server}.gpus", Bandwidth(*rates))

    def _add_pool(self) -> list[tuple[Duplex, ...]]:
        """Links to each device; a switch port no slower than its device cannot bound anything and is left out."""
        assert self.fetch_path is not None
        profile = self.fetch_path.profile
        slower_ports = profile.port.read_bytes_per_ns < profile.device.read_bytes_per_ns
        return [
            (self.links.add(f"pool.port{i}", profile.port), device) if slower_ports else (device,)
            for i in range(self.spec.num_devices)
            for device in [self.links.add(f"pool.device{i}", profile.device)]
        ]

    def _nic_route(self, server: int, gpu: int, profile: Profile) -> list[tuple[Duplex, float]]:
        """The GPU's share of the network cards, where rows come over them."""
        if profile.tier != "rdma":
            return []
        return [(self.links.add(f"server{server}.nic{gpu}", profile.adapter), 1.0)]

    def _device_route(self, server: int, gpu: int) -> list[tuple[Duplex, float]]:
        rank = server * self.spec.server.num_gpus + gpu
        devices = self._devices if self.spec.striped else [self._devices[rank % len(self._devices)]]
        return [(link, 1 / len(devices)) for device in devices for link in device]

"""Random bed files: mostly such as a person would write, some of them broken on purpose. Knows the keys; judges nothing."""

import copy

MODES = ["devdax", "devdax", "system-ram", "pmem"]
SIZES = ["256M", "256M", "512M", "1G", "2G"]
NONSENSE = [
    None, True, 0, -1, 1, 7, 12, 2**31, 2**64, 10**30, 1.5, float("nan"), float("inf"), "", "x", "on", "012", "1:30", "4G", "256M",
    "9" * 30, "a" * 3000, "\n", "é", [], {}, [0], ["m0", "m0"], [[]], {"name": "x"}, [None], {"size": "1G"}, "mine.yaml", "../x/",
]  # fmt: skip


def random_bed(random):
    """The document of a bed with one host, or with two that share its devices."""
    devices, bridges = [], []
    bus = random.randint(1, 20)
    for number in range(random.choice([1, 1, 2, 2, 3])):
        bridge = {"name": f"b{number}", "bus": bus, "devices": _some(random, devices, 3)}
        bridge["switches"] = [
            {"name": f"s{number}{n}", "devices": _some(random, devices, 4), "free_ports": random.choice([0, 0, 1])}
            for n in range(random.choice([0, 0, 1, 2]))
        ]
        bridge["free_ports"] = random.choice([0, 0, 0, 2])
        bridges.append(bridge)
        bus += 30
    windows = [_window(random, n, bridges) for n in range(random.choice([1, 1, 2, 3]))]
    regions = [_region(random, n, windows, bridges) for n in range(random.choice([0, 1, 1, 2, 3, 4]))]
    host = {"name": "a", "memory": random.choice(["1G", "256M"]), "bridges": bridges, "windows": windows}
    host["regions"] = [region for region in regions if region["devices"]]
    hosts = [host]
    if random.random() < 0.1:
        for device in devices:
            device["shared"] = True
        hosts.append({**copy.deepcopy(host), "name": "b"})
    return {"name": "random", "devices": devices, "hosts": hosts}


def spoil(random, document):
    """Put nonsense, or a value from elsewhere in it, into a random place of a document; or take one away, or double it."""
    places = list(_places(document))
    above, key = random.choice(places)
    match random.randrange(4):
        case 0:
            above[key] = copy.deepcopy(random.choice(NONSENSE))
        case 1:
            other, other_key = random.choice(places)
            above[key] = copy.deepcopy(other[other_key])
        case 2:
            del above[key]
        case _ if isinstance(above, list):
            above.insert(key, copy.deepcopy(above[key]))
        case _:
            above[f"{key}s"] = above[key]


def _places(document):
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        yield document, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _some(random, devices, most):
    """Names of up to `most` new devices, which are put into `devices`."""
    names = []
    for _ in range(random.randint(0, most)):
        name = f"m{len(devices)}"
        device = {"name": name, "serial": len(devices) + 1, "size": random.choice(SIZES)}
        if random.random() < 0.25:
            device |= {"persistent_size": random.choice(SIZES), "lsa_size": "1M"}
        if random.random() < 0.12:
            device["plugged"] = False
        devices.append(device)
        names.append(name)
    return names


def _window(random, number, bridges):
    targets = random.sample([bridge["name"] for bridge in bridges], random.randint(1, len(bridges)))
    size = f"{random.choice([1, 3, 12, 24])}G"
    return {
        "name": f"w{number}",
        "targets": targets,
        "size": size,
        "granularity": random.choice([256, 256, "1K", "8K", "16K"]),
    }


def _region(random, number, windows, bridges):
    window = random.choice(windows)
    below = {bridge["name"]: _below(bridge) for bridge in bridges}
    devices = []
    for position in range(len(window["targets"]) * random.choice([1, 1, 2, 2, 3, 4])):
        names = [name for name in below[window["targets"][position % len(window["targets"])]] if name not in devices]
        if names and random.random() < 0.97:
            devices.append(random.choice(names) if random.random() < 0.2 else names[0])
    region = {"name": f"r{number}", "window": window["name"], "devices": devices, "mode": random.choice(MODES)}
    region["granularity"] = window["granularity"] if random.random() < 0.85 else random.choice([256, "4K"])
    if random.random() < 0.6:
        region["size"] = f"{256 * len(devices) * random.choice([1, 1, 2])}M"
    return region


def _below(bridge):
    """Devices below a bridge, those of its switches in turn."""
    columns = [switch["devices"] for switch in bridge["switches"]]
    in_turn = [column[n] for n in range(4) for column in columns if n < len(column)]
    return [*bridge["devices"], *in_turn]

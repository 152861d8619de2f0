"""Windows and regions against what a booted guest (Linux 6.12 on QEMU 10.0.2) took and refused, bed by bed."""

import pytest
import yaml

from qemu_configs.bedfile import parse
from qemu_configs.errors import BedFileError


def bed(bridges, windows, regions):
    """A bed of 256 MiB devices. bridges: name -> list of devices and of lists, which stand for a switch's devices;
    windows: name -> (targets, granularity); regions: (window, devices, granularity)."""
    drawn, names, bus = [], [], 4
    for name, ports in bridges.items():
        switches = [port for port in ports if isinstance(port, list)]
        alone = [port for port in ports if isinstance(port, str)]
        names += alone + [device for switch in switches for device in switch]
        drawn.append(
            {
                "name": name,
                "bus": bus,
                "devices": alone,
                "switches": [{"name": f"{name}-s{n}", "devices": switch} for n, switch in enumerate(switches)],
            }
        )
        bus += 1 + len(alone) + sum(2 + len(switch) for switch in switches)
    return yaml.safe_dump(
        {
            "name": "drawn",
            "devices": [{"name": name, "serial": n + 1, "size": "256M"} for n, name in enumerate(names)],
            "hosts": [
                {
                    "name": "a",
                    "bridges": drawn,
                    "windows": [
                        {"name": name, "targets": targets, "size": "6G", "granularity": granularity}
                        for name, (targets, granularity) in windows.items()
                    ],
                    "regions": [
                        {"name": f"r{n}", "window": window, "devices": devices, "granularity": granularity}
                        for n, (window, devices, granularity) in enumerate(regions)
                    ],
                }
            ],
        }
    )


def problems_of(text):
    with pytest.raises(BedFileError) as caught:
        parse(text)
    return caught.value.problems


EIGHT = [f"d{n}" for n in range(8)]
TAKEN = {
    "four behind a switch": bed({"b": [EIGHT[:4]]}, {"w": (["b"], 256)}, [("w", EIGHT[:4], 4096)]),
    "four ports of a bridge": bed({"b": EIGHT[:4]}, {"w": (["b"], 256)}, [("w", EIGHT[:4], 256)]),
    "eight behind a switch": bed({"b": [EIGHT]}, {"w": (["b"], 256)}, [("w", EIGHT, 1024)]),
    "a switch below each of two bridges": bed(
        {"b": [["d0", "d2"]], "c": [["d1", "d3"]]}, {"w": (["b", "c"], 512)}, [("w", EIGHT[:4], 512)]
    ),
    "two switches below a bridge, taken in turn": bed(
        {"b": [["d0", "d2"], ["d1", "d3"]]}, {"w": (["b"], 256)}, [("w", EIGHT[:4], 1024)]
    ),
    "three bridges": bed(
        {"b": ["d0"], "c": ["d1"], "d": ["d2"]}, {"w": (["b", "c", "d"], 1024)}, [("w", EIGHT[:3], 1024)]
    ),
    "two each on three bridges": bed(
        {"b": ["d0", "d3"], "c": ["d1", "d4"], "d": ["d2", "d5"]},
        {"w": (["b", "c", "d"], 1024)},
        [("w", EIGHT[:6], 1024)],
    ),
    "two bridges at 8 KiB": bed({"b": ["d0"], "c": ["d1"]}, {"w": (["b", "c"], 8192)}, [("w", EIGHT[:2], 8192)]),
    "two ports of a bridge at 16 KiB": bed({"b": ["d0", "d1"]}, {"w": (["b"], 256)}, [("w", EIGHT[:2], 16384)]),
    "a bridge in two windows, buses without a gap": bed(
        {"b": ["d0", ["d1", "d2"]], "c": [["d3"]], "d": ["d4", "d5"]},
        {"w": (["b"], 256), "x": (["c"], 256), "y": (["d", "b"], 256), "z": (["d"], 256)},
        [("w", ["d1", "d2"], 512), ("x", ["d3"], 256), ("y", ["d4", "d0"], 256), ("z", ["d5"], 256)],
    ),
}


@pytest.mark.parametrize("text", TAKEN.values(), ids=TAKEN)
def test_what_a_guest_took_the_rules_take(text):
    assert parse(text).name == "drawn"


TOO_COARSE = (
    "granularity_bytes=16384 makes a decoder below bridge '{}' interleave at 32768, beyond 16384 (use a finer one)"
)
REFUSED = {
    "three behind a switch": (
        bed({"b": [EIGHT[:3]]}, {"w": (["b"], 256)}, [("w", EIGHT[:3], 1024)]),
        [
            "devices: 3 over the 1 targets of window 'w' are not 1, 2, 4, 8 or 16 each "
            "(change the devices, or the window's targets)"
        ],
    ),
    "one switch's devices before the other's": (
        bed({"b": [["d0", "d1"], ["d2", "d3"]]}, {"w": (["b"], 256)}, [("w", EIGHT[:4], 1024)]),
        [
            "devices: below bridge 'b' they do not take its 2 ports in turn, the same number each "
            "(now: b-s0, b-s0, b-s1, b-s1)"
        ],
    ),
    "one device beside a switch of three": (
        bed({"b": ["d0", ["d1", "d2", "d3"]]}, {"w": (["b"], 256)}, [("w", EIGHT[:4], 1024)]),
        [
            "devices: below bridge 'b' they do not take its 2 ports in turn, the same number each (now: d0, b-s0, b-s0, b-s0)"
        ],
    ),
    "two bridges at 16 KiB": (
        bed({"b": ["d0"], "c": ["d1"]}, {"w": (["b", "c"], 16384)}, [("w", EIGHT[:2], 16384)]),
        [TOO_COARSE.format("b"), TOO_COARSE.format("c")],
    ),
    "two switches below a bridge at 16 KiB": (
        bed({"b": [["d0"], ["d1"]]}, {"w": (["b"], 256)}, [("w", EIGHT[:2], 16384)]),
        [TOO_COARSE.format("b")],
    ),
}


@pytest.mark.parametrize(("text", "problems"), REFUSED.values(), ids=REFUSED)
def test_what_a_guest_refused_the_rules_refuse_with_the_reason(text, problems):
    assert problems_of(text) == [f"host 'a': region 'r0': {problem}" for problem in problems]


def test_four_regions_fit_a_bridge_and_its_switch_and_five_run_out_of_decoders():
    four = [("w", [device], 256) for device in EIGHT[:4]]
    assert len(parse(bed({"b": [EIGHT[:4]]}, {"w": (["b"], 256)}, four)).hosts[0].regions) == 4
    assert problems_of(bed({"b": [EIGHT[:5]]}, {"w": (["b"], 256)}, [*four, ("w", ["d4"], 256)])) == [
        "host 'a': bridge 'b': 5 regions pass through its 4 HDM decoders (use fewer, wider regions or another bridge)",
        "host 'a': switch 'b-s0': 5 regions pass through its 4 HDM decoders (use fewer, wider regions or another bridge)",
    ]


def test_sixteen_ports_are_more_than_a_decoder_takes():
    sixteen = [f"e{n}" for n in range(16)]
    assert problems_of(bed({"b": [sixteen]}, {"w": (["b"], 256)}, [("w", sixteen, 256)])) == [
        "host 'a': switch 'b-s0': region 'r0' interleaves 16 of its ports, a decoder takes 8"
    ]

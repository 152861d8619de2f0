"""Seconds from the start of `up` to SSH answering with regions committed and compared: one host, then two, by turns.

    python scripts/bench/boot.py --rounds 5 [--json FILE]

Whole-machine figures: run it with nothing else running. Bounds: those of a machine of two cores without KVM.
"""

import sys
from functools import partial

from arms import Bound, parser, report

from emulation.machines.bed import booted
from emulation.machines.launch import Options
from emulation.machines.this_machine import this_machine
from qemu_configs.bedfile import load

BOUNDS_S = {"direct": 9.0, "shared-pool": 14.0}


def ready_s(name: str, accelerator: str) -> float:
    """Boot one bed, end it, and return what it took to be ready."""
    options = Options(accelerator=accelerator)
    with booted(load(name, this_machine()), f"bench-{name}", options, partial(print, file=sys.stderr)) as bed:
        assert bed.record.ready_s is not None
        return bed.record.ready_s


def main() -> int:
    made = parser(__doc__.splitlines()[0])
    made.set_defaults(rounds=5)
    made.add_argument("--accelerator", default="tcg")
    arguments = made.parse_args()
    rounds = [{name: ready_s(name, arguments.accelerator) for name in BOUNDS_S} for _ in range(arguments.rounds)]
    medians = {name: sorted(round_[name] for round_ in rounds)[len(rounds) // 2] for name in BOUNDS_S}
    return report(arguments, medians, "s", [Bound(name, medians[name], at_most) for name, at_most in BOUNDS_S.items()])


if __name__ == "__main__":
    sys.exit(main())

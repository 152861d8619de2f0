"""Damages pools at random and says what came of it, as JSON. Ends with 1 if there was anything but right bytes and named errors.

scripts/fuzz/pool.py --seed 0 --trials 6000
"""

import argparse
import json
import sys

from emulation.faults.damage import fuzz


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first trial, to run one again")
    arguments = parser.parse_args()
    report = fuzz(arguments.seed, arguments.trials, arguments.first)
    json.dump(vars(report), sys.stdout, indent=1)
    sys.stdout.write("\n")
    return int(bool(report.wrong or report.unnamed or report.hung))


if __name__ == "__main__":
    sys.exit(main())

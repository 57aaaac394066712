"""`make chaos`: storms over a study of 24 cells until enough SIGKILLs have struck, each held against the calm one."""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

# Before torch is imported, as in tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from chaos import storm


def main():
    """Return 0 if every disturbed study is the calm one."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=120, metavar="N", help="SIGKILLs in all (default: 120)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of moments and victims (default: 0)")
    parser.add_argument("--updates", type=int, default=2000, metavar="N", help="of each cell (default: 2000)")
    options = parser.parse_args()
    cells = storm.CELLS_A_RATE * len(storm.RATES)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        started = time.monotonic()
        calm = storm.prepare(Path(folder, "calm"), options.updates)
        interval = storm.leave_alone(calm) * storm.SHARE
        storm.assert_whole(calm, cells)
        print(f"calm: {cells} cells in {time.monotonic() - started:.0f} s", flush=True)
        kills, bad = Counter(), []
        while kills.total() < options.kills and not bad:
            started = time.monotonic()
            folder_ = storm.prepare(Path(folder, f"storm-{kills.total()}"), options.updates)
            done = storm.rage(folder_, options.kills - kills.total(), options.seed + kills.total(), interval)
            kills += done.kills
            storm.assert_whole(folder_, cells)
            bad = storm.differences(calm, folder_)
            struck = ", ".join(f"{number} {victim}" for victim, number in sorted(done.kills.items()))
            took = f"{done.launches} launches, {time.monotonic() - started:.0f} s"
            print(f"storm: {struck} killed, {took}: {len(bad)} differences", *bad, sep="\n  ", flush=True)
    victims = ", ".join(f"{number} {victim}" for victim, number in sorted(kills.items()))
    print(f"{kills.total()} SIGKILLs ({victims}): {'NOT ' if bad else ''}as the calm study")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

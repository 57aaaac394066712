"""`make chaos`: storms over three kinds of study until enough SIGKILLs have struck, each held against the calm one."""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

# Before torch is imported, as in tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from chaos import commands, storm
from chaos.kinds import KINDS

COMMANDS = 4
"""Those of `commands.storm`."""


def main():
    """Return 0 if every disturbed study is the calm one."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, metavar="N", help="SIGKILLs in all (default: 200)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of moments and victims (default: 0)")
    parser.add_argument("--updates", type=int, default=2000, metavar="N", help="of each trial (default: 2000)")
    parser.add_argument("--kind", choices=[kind.name for kind in KINDS], help="of this kind of study only")
    options = parser.parse_args()
    kinds = [kind for kind in KINDS if options.kind in (None, kind.name)]
    a_command = options.kills // 20
    a_kind = -(-(options.kills - COMMANDS * a_command) // len(kinds))
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        strikes, bad = Counter(), []
        for kind in kinds:
            done, found = over_study(Path(folder, kind.name), kind, a_kind, options)
            strikes, bad = strikes + done, bad + found
        calm = Path(folder, kinds[0].name, "calm")
        bad += commands.storm(calm, Path(folder, "commands"), a_command, options.seed)
        strikes["command"] = COMMANDS * a_command
    kills = strikes["command"] + sum(strikes[victim] for victim in storm.KILLS)
    print(*bad, sep="\n")
    print(f"{kills} SIGKILLs ({told(strikes)}): {'NOT ' if bad else ''}as the calm studies")
    return 1 if bad else 0


def over_study(folder, kind, kills, options):
    """Return what was done to studies of a kind until so many kills had struck, and where they differ, in words."""
    started = time.monotonic()
    calm = storm.prepare(folder / "calm", kind, options.updates)
    interval = storm.leave_alone(calm) * storm.SHARE
    storm.assert_whole(calm)
    print(f"{kind.name}, calm: {time.monotonic() - started:.0f} s", flush=True)
    strikes, struck, bad = Counter(), 0, []
    while struck < kills and not bad:
        started = time.monotonic()
        disturbed = storm.prepare(folder / f"storm-{struck}", kind, options.updates)
        seed = options.seed + struck
        done = storm.rage(disturbed, kills - struck, seed, interval, troubles=storm.TROUBLES)
        strikes += done.strikes
        struck += done.kills
        storm.assert_whole(disturbed, calm)
        bad = storm.differences(calm, disturbed)
        took = f"{done.launches} launches, {time.monotonic() - started:.0f} s"
        print(f"{kind.name}, storm: {told(done.strikes)}; {took}: {len(bad)} differences", *bad, sep="\n  ", flush=True)
    return strikes, bad


def told(strikes):
    """Return in words how often each was struck."""
    return ", ".join(f"{number} {how}" for how, number in sorted(strikes.items()))


if __name__ == "__main__":
    sys.exit(main())

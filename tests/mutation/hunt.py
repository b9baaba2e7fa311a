"""Plays seed after seed until one goes wrong, and says which: `python -m mutation.hunt SEEDS`. Exit code 1 when one did.

Must not live here: what is wrong with the code that plays.
"""

import sys

from simulation.theatre import Theatre


def hunt(seeds: int) -> tuple[int, str] | None:
    """The first seed whose end is not the oracle's, and the first difference; None where all are."""
    for seed in range(seeds):
        try:
            wrong = Theatre(seed).run()
        except Exception as error:  # noqa: BLE001  a worker that falls over is noticed too
            wrong = [f"{type(error).__name__}: {error}"]
        if wrong:
            return seed, wrong[0]
    return None


if __name__ == "__main__":
    found = hunt(int(sys.argv[1]))
    sys.stdout.write("nothing" if found is None else f"seed {found[0]}: {found[1][:160]}")
    sys.exit(found is not None)

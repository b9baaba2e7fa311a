"""A session of faults on one bed: strike, tell, and in the end judge. Must not live here: the faults, or printing."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from random import Random

from agentrun_stream.errors import AgentrunError, StoppedError
from agentrun_stream.testing.chaos.bed import Bed, BedOptions
from agentrun_stream.testing.chaos.faults import BY_NAME, FAULTS
from agentrun_stream.testing.chaos.outcomes import Outcomes
from agentrun_stream.testing.chaos.verdict import Verdict, judge

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Chaos:
    """What a session came to."""

    outcomes: Outcomes
    verdict: Verdict


def strike(bed: Bed, names: Iterable[str], rng: Random, say: Say = lambda _text: None) -> Outcomes:
    """Inject these faults one after the other. Raises StoppedError, naming the fault, where one is not got over."""
    outcomes = Outcomes()
    before = bed.kills.copy()
    for name in names:
        try:
            seen = BY_NAME[name].inject(bed, rng)
        except AgentrunError as error:
            raise StoppedError(f"After the fault '{name}': {error.message}", error.next_step) from error
        outcomes.add(name, seen)
        say(f"{name}: {seen}")
    outcomes.kills = bed.kills - before
    return outcomes


def schedule(rng: Random, until: float) -> Iterator[str]:
    """Faults as they are drawn, until the monotonic clock says so; the same seed draws the same ones."""
    drawn = [fault for fault in FAULTS if fault.drawn]
    while time.monotonic() < until:
        yield rng.choices(drawn, [fault.drawn for fault in drawn])[0].name


def chaos(options: BedOptions, minutes: float, say: Say) -> Chaos:
    """Load and a seeded schedule of faults for so long on a bed of its own, then the verdict."""
    rng = Random(f"chaos/{options.seed}")
    with Bed(options, say) as bed:
        bed.load.start()
        say(f"Load runs: {options.rate} records/s. Faults come for {minutes:g} minutes.")
        outcomes = strike(bed, schedule(rng, time.monotonic() + minutes * 60), rng, say)
        say("Stopping the load; waiting until everything is stored.")
        bed.drain()
        say("Auditing, and reading the compacted topic to its end.")
        verdict = judge(bed.settings)
    outcomes.judged(verdict.residual)
    return Chaos(outcomes, verdict)

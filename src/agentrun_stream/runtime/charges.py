"""What closed runs are charged for, by meter and time: the rows of a FOCUS export, and what an invoice is held against.

Every run's stored amounts are in the sums of its rows, to the last digit: what its lines don't say, an adjustment does.
Must not live here: SQL, files, FOCUS's rules (pricing/focus.py), prices.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, NamedTuple

from agentrun_stream.errors import ConfigError
from agentrun_stream.model.opinions import Opinions
from agentrun_stream.pricing.book import PriceBook
from agentrun_stream.pricing.books import book_of
from agentrun_stream.pricing.price import ROUNDING, Explanation, Line
from agentrun_stream.pricing.sheet import EXACT, total
from agentrun_stream.runtime.bills import explained
from agentrun_stream.store.charges import Page, Settled

HOUR_S: Final = 3_600
DAY_S: Final = 86_400

UNPRICED: Final = "unpriced"
CHANGED: Final = "changed"
REPORTED: Final = "reported_difference"
ADJUSTMENTS: Final = frozenset({ROUNDING, CHANGED, REPORTED})
_ONE: Final = Decimal(1)
_ZERO: Final = Decimal(0)


class Key(NamedTuple):
    """What there is one row of. '' is a name that is not known, `status` '' a run that is priced in full.

    `provider` and `model` are those that are charged, by the price book's names; `run_provider` and `run_model` what the run
    says. `source` is where the price is from; of a difference to what was reported, its class. Prices are None where there is
    none; `billed` and `counted` say whether the amount and the quantity are known.
    """

    start_s: int
    workspace: str
    agent_id: str
    run_provider: str
    run_model: str
    provider: str
    model: str
    meter: str
    above: int | None
    source: str
    list_price: Decimal | None
    unit_price: Decimal | None
    status: str
    billed: bool
    counted: bool


@dataclass(slots=True)
class Sums:
    """The quantity of a row, its effective cost, how many charges it is of. Each run is counted in one row only.

    `unpriced` counts runs whose effective cost is not known, `uncomputed` those whose computed one is not.
    """

    quantity: Decimal = _ZERO
    effective: Decimal | None = None
    charges: int = 0
    runs: int = 0
    unpriced: int = 0
    uncomputed: int = 0

    def add(self, quantity: Decimal, effective: Decimal | None) -> None:
        """One more charge."""
        self.charges += 1
        self.quantity = EXACT.add(self.quantity, quantity)
        if effective is not None:
            self.effective = EXACT.add(self.effective or _ZERO, effective)


Charges = dict[Key, Sums]


class Charge(NamedTuple):
    """One charge of one run."""

    key: Key
    quantity: Decimal
    effective: Decimal | None


class Books:
    """The price books that were in force, by digest, opened when they are first asked for."""

    def __init__(self, contents: Mapping[str, str]) -> None:
        self._contents = contents
        self._opened: dict[str, PriceBook] = {}

    def __getitem__(self, digest: str) -> PriceBook | None:
        """The book; None where the run was stored without one. Raises ConfigError where it can't be had."""
        if not digest:
            return None
        if digest not in self._opened:
            if digest not in self._contents:
                raise ConfigError(f"The price book {digest[:12]} is not in the store.", "See `agentrun audit`.")
            self._opened[digest] = book_of(self._contents[digest])
        return self._opened[digest]


def charged(pages: Iterable[Page], books: Books, opinions: Opinions, every_s: int = DAY_S) -> Iterator[Charges]:
    """What runs are charged for, one period after another, for pages in order of time; only one period is held."""
    period, held = 0, Charges()
    for page in pages:
        for run in page.runs:
            start = run.minute_s - run.minute_s % every_s
            if start != period and held:
                yield held
                held = {}
            period = start
            state, book = page.states.get(run.key), books[run.book]
            told = None if state is None or book is None else explained(state, opinions, book)
            _add(held, run, list(_charges(run, told, start)))
    if held:
        yield held


def _add(held: Charges, run: Settled, found: list[Charge]) -> None:
    for number, charge in enumerate(found):
        sums = held.setdefault(charge.key, Sums())
        sums.add(charge.quantity, charge.effective)
        if not number:
            sums.runs += 1
            sums.unpriced += run.effective is None
            sums.uncomputed += run.computed is None


def _charges(run: Settled, told: Explanation | None, start_s: int) -> Iterator[Charge]:
    """The charges of a run: what has no price first, its lines, then what brings them to the stored amounts."""
    computed, effective = run.computed, run.effective
    status = run.status if computed is None else ""
    base = Key(
        start_s, run.workspace, run.agent_id, run.provider, run.model, run.provider, run.model, UNPRICED, None, "",
        None, None, status, billed=False, counted=False,
    )  # fmt: skip
    lines = [line for line in told.lines if line.meter != ROUNDING] if told is not None else []
    if computed is None:
        yield from _without_price(base, told)
    for line in lines:
        yield _line(base, line, run)
    if lines:
        base = base._replace(provider=lines[0].provider, model=lines[0].model)
    if computed is not None:
        rest = EXACT.subtract(computed, total(line.amount for line in lines))
        meter = ROUNDING if told is not None and told.priced.cost_computed == computed else CHANGED
        if rest or not lines:
            yield _adjustment(base, meter, rest, None if effective is None else rest)
    if effective is not None and effective != computed:
        base = base._replace(source=run.diff_class)
        if computed is None:
            yield Charge(base._replace(meter=REPORTED), _ZERO, effective)
        else:
            yield _adjustment(base, REPORTED, _ZERO, EXACT.subtract(effective, computed))


def _without_price(base: Key, told: Explanation | None) -> Iterator[Charge]:
    """One charge without an amount for each call that has no price, at least one for the run."""
    calls = told.unpriced if told is not None else ()
    for call in calls:
        tokens = None if call.counts is None or call.partly else sum(call.counts)
        key = base._replace(
            provider=call.provider or "", model=call.model or "", source=call.service_tier or "", status=call.status,
            counted=tokens is not None,
        )  # fmt: skip
        yield Charge(key, Decimal(tokens or 0), None)
    if not calls:
        yield Charge(base, _ZERO, None)


def _line(base: Key, line: Line, run: Settled) -> Charge:
    key = base._replace(
        provider=line.provider, model=line.model, meter=line.meter, above=line.above, source=line.source,
        list_price=line.list_price, unit_price=line.unit_price, billed=run.computed is not None, counted=True,
    )  # fmt: skip
    known = run.computed is not None and run.effective is not None
    return Charge(key, Decimal(line.quantity), line.amount if known else None)


def _adjustment(base: Key, meter: str, amount: Decimal, effective: Decimal | None) -> Charge:
    """A charge of so many dollars at one dollar each, because a unit price is never negative."""
    key = base._replace(meter=meter, list_price=_ONE, unit_price=_ONE, billed=True, counted=True)
    return Charge(key, amount, effective)


def cost(key: Key, sums: Sums, price: Decimal | None) -> Decimal | None:
    """Quantity x price, exactly; None where either is not known."""
    return None if price is None or not key.counted else EXACT.multiply(sums.quantity, price)

"""Is the simulation mean enough? Each mechanism of exactness switched off must show within a few hundred seeds.

Must not live here: plays of the design as it is (simulation/test_simulation.py).
"""

import pytest

from mutation.hunt import hunt
from mutation.mechanisms import MUTATIONS
from mutation.tally import Tally

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_000)]

SEEDS = 400


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mechanism_switched_off_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch, tally: Tally) -> None:
    MUTATIONS[name](monkeypatch)
    found = hunt(SEEDS)
    assert found is not None, f"{name}: {SEEDS} seeds noticed nothing"
    tally("mechanism switched off", name, *found)

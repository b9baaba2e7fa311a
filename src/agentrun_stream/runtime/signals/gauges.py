"""Signals as gauges: of each only the highest, chosen by value and not by volume, and how many are not shown.

A small agent that fails every time must not drop out because others have more runs. Must not live here: what a signal is.
"""

from collections.abc import Iterable

from agentrun_stream.runtime.signals.failures import FAILURES
from agentrun_stream.runtime.signals.spending import BUDGET, BURN, LOOPS, VELOCITY
from agentrun_stream.store.signals import Signal
from agentrun_stream.telemetry.metrics import GaugeSeries, Metrics

NAME_CHARS_MAX = 200


class Gauges:
    """The series of the signals, at most `series_max` of each."""

    def __init__(self, metrics: Metrics, series_max: int) -> None:
        self._metrics = metrics
        self._series_max = series_max
        self._by_signal: dict[str, tuple[GaugeSeries, dict[str, str]]] = {
            FAILURES: (metrics.failure_evalue, {}),
            VELOCITY: (metrics.spend_hour_usd, {}),
            LOOPS: (metrics.looping_runs, {}),
            BURN: (metrics.burn_rate, {}),
            **{signal: (metrics.budget_used, {"period": period}) for period, signal in BUDGET.items()},
        }

    def show(self, signals: Iterable[Signal]) -> None:
        """Show these, and nothing else."""
        by_signal: dict[str, list[Signal]] = {signal: [] for signal in self._by_signal}
        for one in signals:
            if one.signal in by_signal and one.state:
                by_signal[one.signal].append(one)
        shown: dict[GaugeSeries, list[tuple[float, dict[str, str]]]] = {}
        for signal, found in by_signal.items():
            series, labels = self._by_signal[signal]
            short = [s for s in found if len(s.agent_id) <= NAME_CHARS_MAX]
            most = sorted(short, key=lambda s: (-s.value, s.workspace, s.agent_id))[: self._series_max]
            shown.setdefault(series, []).extend(
                (s.value, {"workspace": s.workspace, "agent_id": s.agent_id, **labels}) for s in most
            )
            self._metrics.signals_suppressed.set(len(found) - len(most), signal=signal)
        for series, values in shown.items():
            series.replace(values)

    def passed(self, seconds: float) -> None:
        """A pass is done."""
        self._metrics.signal_refresh_seconds.observe(seconds)

    def forget(self) -> None:
        """Show nothing: somebody else does."""
        for series, _ in self._by_signal.values():
            series.replace([])
        self._metrics.signals_suppressed.remove()

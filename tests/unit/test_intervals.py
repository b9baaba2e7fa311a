"""Block numbers as intervals: what windows keep of what they read."""

from agentrun_stream.store import windows
from agentrun_stream.store.windows import Interval


def test_intervals() -> None:
    """The arithmetic of block numbers, and a version that grows with every late block."""
    assert windows.joined([Interval(4, 5), Interval(1, 2), Interval(3, 3), Interval(9, 9)]) == [(1, 5), (9, 9)]
    assert windows.minus([Interval(1, 9)], [Interval(2, 3), Interval(9, 12)]) == [(1, 1), (4, 8)]
    place = windows.Place("accruals", "202601")
    book = windows.Book(
        parts={place: [windows.Parts(Interval(1, 1), 5), windows.Parts(Interval(7, 7), 5)]},
        seen={place: [Interval(1, 2)]},
    )
    assert book.closed(place) == 3
    book.parts[place].append(windows.Parts(Interval(5, 5), 1))
    assert book.closed(place) == 4
    assert book.new(1) == ({place: [(5, 5)]}, True)
    assert book.new(9) == ({place: [(5, 5), (7, 7)]}, False)

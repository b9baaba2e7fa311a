"""What a run costs: known amounts, how counts are meant, what has no price, bounds, and differences to what was reported."""

from decimal import Decimal

import pytest

from agentrun_stream.model.usage import Bill, Call, run_call, step_call
from agentrun_stream.pricing.conventions import PROFILES, Profile, decide, profile
from agentrun_stream.pricing.price import columns, price
from pricing_calls import NOTHING, SONNET, book, call, explained, steps, total

SONNET_45 = ("anthropic", "claude-sonnet-4-5")
GEMINI = ("google", "gemini-2.5-pro")


@pytest.mark.parametrize(
    ("one", "cost"),
    [
        (call(*SONNET, 3, 550, write=12_304), "0.054399"),
        (call(*SONNET_45, 0, 0, write=100_000), "0.375"),
        (call(*SONNET_45, 0, 0, write=100_000, hour=100_000), "0.60"),
        (call("openai", "o3", 1_000_000, 1_000_000, day="2025-06-01"), "50"),
        (call("openai", "o3", 1_000_000, 1_000_000, day="2025-07-01"), "10"),
        (call(*GEMINI, 200_000, 1_000), "0.260"),
        (call(*GEMINI, 200_001, 1_000), "0.5150025"),
        (call("aws", "us.anthropic.claude-3-5-haiku-20241022-v1:0", 1_000_000, 0), "0.80"),
    ],
)
def test_known_amounts(one: Call, cost: str) -> None:
    """A call costs what its provider's page says, at the call's own date, tier and cache life."""
    told = steps(one).priced
    assert told.cost_computed == Decimal(cost)
    assert (told.price_status, told.price_basis) == ("ok", "steps")
    assert told.price_as_of == one.at_s
    assert told.price_book == book().digest


@pytest.mark.parametrize(
    ("one", "convention", "evidence"),
    [
        (call("openai", "gpt-4o", 100, 10, read=40, convention="exclusive"), "exclusive", "metadata"),
        (call("openai", "gpt-4o", 100, 10, read=40, total=110), "inclusive", "total=input+output"),
        (call("openai", "gpt-4o", 100, 10, read=40, total=150), "exclusive", "total=input+cache+output"),
        (call("openai", "gpt-4o", 100, 10), "either", "no_cache"),
        (call("openai", "gpt-4o", 100, 10, read=0, write=0), "either", "no_cache"),
        (call("openai", "gpt-4o", 10, 10, read=40), "exclusive", "cache>input"),
        (call("openai", "gpt-4o", 10, 10, read=40, total=20), "exclusive", "cache>input"),
        (call("openai", "gpt-4o", 100, 10, read=40), "inclusive", "provider:openai"),
        (call("openai", "gpt-4o", 100, 10, read=40, total=7), "inclusive", "provider:openai"),
        (call(*SONNET, 100, 10, read=40), "exclusive", "provider:anthropic"),
        (call(None, "claude-3-7-sonnet-20250219", 100, 10, read=40), "exclusive", "provider:anthropic"),
        (call("google", "claude-3-7-sonnet", 100, 10, read=40), "exclusive", "provider:google"),
        (call("google", "gemini-2.5-pro", 100, 10, read=40), "inclusive", "provider:google"),
        (call("github-copilot", "claude-sonnet-4.5", 100, 10, read=40), "unknown", "none"),
    ],
)
def test_how_counts_are_meant(one: Call, convention: str, evidence: str) -> None:
    """The first evidence decides, and is stored beside what it decided."""
    told = total(one).priced
    assert (told.token_convention, told.convention_evidence) == (convention, evidence)


def test_a_producers_profile_decides_before_sums() -> None:
    """Claude Code counts outside, whatever the sums look like; a declaration still counts first."""
    one = call("openai", "gpt-4o", 100, 10, read=40, total=110)
    told = explained(Bill(one, runtime="claude-code", runtime_version="2.1.39")).priced
    assert (told.token_convention, told.convention_evidence) == ("exclusive", "profile:claude-code")
    declared = explained(Bill(one._replace(convention="inclusive"), runtime="claude-code")).priced
    assert declared.convention_evidence == "metadata"


def test_profiles_go_by_version() -> None:
    """From one version, until another; a version that is no number is older than all."""
    rows = (Profile("r", "inclusive", None, (1, 2)), Profile("r", "exclusive", (1, 2), None))
    found = [profile("r", version, rows) for version in ("1.1.9", "1.2", "1.10.dev3", "main", None)]
    said = [None if one is None else one.convention for one in found]
    assert said == ["inclusive", "exclusive", "exclusive", "inclusive", "inclusive"]
    assert profile("other", "1", rows) is None
    assert (
        decide(call(None, None, 1, 1), None, profile("inspect-ai", None, PROFILES), (None, None)).convention
        == "exclusive"
    )


def test_an_unknown_convention_is_priced_both_ways() -> None:
    """Nobody knows whether the 40 are inside: the amount is what is certain, the bound what it may be at most."""
    told = total(call("novita", "deepseek/deepseek-r1-0528", 1_000_000, 0, read=400_000)).priced
    assert (told.token_convention, told.price_status) == ("unknown", "ok")
    assert told.cost_lo == told.cost_computed == Decimal("0.56")
    assert told.cost_hi == Decimal("0.84")


@pytest.mark.parametrize(
    ("one", "status"),
    [
        (call("openai", "no-such-model", 10, 10), "unknown_model"),
        (call("openai", None, 10, 10), "unknown_model"),
        (call(None, "x" * 100_000, 10, 10), "unknown_model"),
        (call("no-such-gateway", "gpt-4o", 10, 10), "unknown_provider"),
        (call("github-copilot", "gpt-4o", 10, 10), "unknown_model"),
        (call("openai", "gpt-4o", 10, 10, tier="batch", day="2024-01-01"), "context_unpriced"),
        (call("openai", "gpt-4o", 10, 10, tier="no-such-tier"), "context_unpriced"),
        (call("openai", "text-embedding-3-small", 10, 10), "context_unpriced"),
        (call("openai", "gpt-4o", 10, 10, read=40, convention="inclusive"), "inconsistent_usage"),
        (call(*SONNET, 10, 10, write=40, hour=41), "inconsistent_usage"),
        (call("openai", "gpt-4o", None, 10), "inconsistent_usage"),
        (call("openai", "gpt-4o", 10, None), "inconsistent_usage"),
        (NOTHING, "no_usage"),
        (call("openai", "gpt-4o", None, None, total=50), "no_usage"),
    ],
)
def test_what_has_no_price_is_never_zero(one: Call, status: str) -> None:
    """Unknown is unknown: no computed amount, no upper bound, and the lower one only where a part is known."""
    told = total(one)
    assert told.priced.price_status == status
    assert told.priced.cost_computed is None
    assert told.priced.cost_hi is None
    assert told.priced.cost_effective is None
    assert told.priced.cost_lo != 0
    assert bool(told.unpriced) == (status != "no_usage")


def test_a_run_with_one_unpriced_step_has_a_known_part() -> None:
    """Known part and what is missing stand apart; the lines add up to the known part."""
    known, unknown = call(*SONNET, 1_000, 100), call(None, "no-such-model", 7, 8)
    told = steps(known, unknown)
    assert told.priced.cost_computed is None
    assert told.priced.cost_lo == Decimal("0.0045")
    assert told.priced.price_status == "unknown_model"
    assert [(u.model, u.counts) for u in told.unpriced] == [("no-such-model", (7, 0, 0, 0, 8))]
    assert told.priced.tokens == (1_007, 0, 0, 0, 108)


def test_a_reported_amount_stands_where_no_price_is_known() -> None:
    """Reported, computed and effective stand side by side; which one counts is a preference."""
    told = total(call(None, "no-such-model", 7, 8), reported="0.5").priced
    assert (told.cost_effective, told.effective_source) == (Decimal("0.5"), "reported")
    both = Bill(call(*SONNET, 1_000, 100), (), Decimal("0.5"))
    assert price(both, book()).effective_source == "reported"
    assert price(both, book(), ("computed", "reported")).cost_effective == Decimal("0.0045")
    nothing = price(Bill(NOTHING), book())
    assert (nothing.cost_effective, nothing.effective_source, nothing.price_status) == (None, "none", "no_usage")


def test_a_total_of_many_requests_may_have_passed_a_tier() -> None:
    """A sum says nothing of its parts: the base tier, and the dearest that it could have been, as a bound."""
    told = total(call(*GEMINI, 200_001, 1_000)).priced
    assert (told.price_basis, told.price_status) == ("run_aggregate", "tier_ambiguous")
    assert told.cost_lo == told.cost_computed == Decimal("0.26000125")
    assert told.cost_hi == Decimal("0.5150025")
    small = total(call(*GEMINI, 200_000, 1_000)).priced
    assert (small.price_status, small.cost_hi) == ("ok", small.cost_computed)


def test_a_fee_per_request_leaves_a_total_without_upper_bound() -> None:
    """Nobody knows how many requests a total was; at least one. Steps are one each."""
    one = call("perplexity", "sonar", 1_000_000, 0)
    whole, by_step = total(one), steps(one, one)
    assert (whole.priced.price_status, whole.priced.cost_hi) == ("tier_ambiguous", None)
    assert [line.quantity for line in whole.lines if line.meter == "request"] == [1]
    assert [line.quantity for line in by_step.lines if line.meter == "request"] == [2]
    assert by_step.priced.cost_hi == by_step.priced.cost_computed == 2 * (whole.priced.cost_computed or 0)


def test_a_step_inherits_from_its_run_what_it_does_not_say() -> None:
    """Provider and model of the run, unless the step's model can only be another provider's."""
    run = call("anthropic", "claude-3-7-sonnet-20250219", None, None)
    told = steps(call(None, None, 1_000, 0), call(None, "gpt-4o", 1_000, 0), run=run)
    assert [(line.provider, line.model) for line in told.lines] == [
        ("anthropic", "claude-3-7-sonnet-latest"),
        ("openai", "gpt-4o"),
    ]


DOUBLE = call(*SONNET, 3, 550, write=12_304)
OLD = call("openai", "o3", 1_000_000, 1_000_000, day="2025-07-01")
LONG = (call(*GEMINI, 150_000, 1_000), call(*GEMINI, 150_000, 1_000))


@pytest.mark.parametrize(
    ("calls", "reported", "kind"),
    [
        ([DOUBLE], "0.054399", "match"),
        ([DOUBLE], "0.0545", "match"),
        ([call("openai", "gpt-4o-mini", 3, 0)], "0.000001", "match"),
        ([DOUBLE], "0.091311", "cache_double_counted"),
        ([DOUBLE], "0.008259", "cache_ignored"),
        ([DOUBLE], "0.045171", "cache_ignored"),
        ([call(*SONNET, 20_000, 0, read=10_000)], "0.033", "other_convention"),
        ([DOUBLE], "0.082083", "write_ttl_1h"),
        ([DOUBLE], "0.0271995", "batch_or_flex_half"),
        ([*LONG], "0.78", "tier_by_run_total"),
        ([OLD], "50", "previous_price"),
        ([DOUBLE], "0", "subscription_zero"),
        ([DOUBLE], "1234", "unexplained"),
    ],
)
def test_a_difference_is_named_by_the_first_hypothesis_that_fits(calls: list[Call], reported: str, kind: str) -> None:
    """Whoever reported another amount made one of a few known mistakes, or nobody knows."""
    told = steps(*calls, reported=reported).priced
    assert told.diff_class == kind
    assert told.cost_computed is not None
    assert told.diff_abs == Decimal(reported) - told.cost_computed
    assert told.diff_rel is not None
    assert abs(told.diff_rel * told.cost_computed - told.diff_abs) < Decimal("1e-9")


def test_lines_of_one_meter_are_one_line() -> None:
    """However many calls: one line per meter and price, and a rounding line where 12 decimals do not hold the sum."""
    told = steps(*[call(*SONNET, 10, 10, read=5)] * 7)
    assert [(line.meter, line.quantity) for line in told.lines] == [
        ("input_uncached", 70),
        ("cache_read", 35),
        ("output", 70),
    ]


def test_what_the_store_shows_is_text() -> None:
    """Amounts keep their 12 decimals; counts are the exclusive buckets."""
    row = columns(total(DOUBLE).priced)
    assert row["cost_computed"] == "0.054399000000"
    assert row["cache_write_5m"] == 12_304
    assert row["diff_abs"] is None


def test_calls_are_read_from_what_runtimes_send() -> None:
    """Terms stand in the usage, beside it in the step's metadata, or in the run's cost metadata."""
    usage = {"model": "m", "input_tokens": 3, "output_tokens": 5, "cache_write_tokens": 7}
    one = step_call({"usage": usage | {"cache_ttl": "1h", "service_tier": "batch"}}, 15, 1.0)
    assert one is not None
    assert (one.cache_write_1h_tokens, one.service_tier, one.total_tokens) == (7, "batch", 15)
    two = step_call({"usage": usage, "cache_write_1h_tokens": 4, "token_convention": "exclusive"}, None, 1.0)
    assert two is not None
    assert (two.cache_write_1h_tokens, two.convention) == (4, "exclusive")
    assert step_call({"usage": "?"}, 15, 1.0) is None
    assert step_call(None, 15, 1.0) is None
    odd = step_call(
        {"usage": usage | {"cache_write_1h_tokens": "?", "service_tier": 5, "token_convention": "?"}}, None, 1.0
    )
    assert odd is not None
    assert odd[7:10] == (None, None, None)
    doc = {"provider": "p", "model": "a", "cost": {"input_tokens": 1.0, "model": "b", "metadata": {}}}
    run = run_call(doc | {"metadata": {"token_convention": "inclusive"}}, 2.0)
    assert (run.provider, run.model, run.input_tokens, run.convention) == ("p", "b", 1, "inclusive")

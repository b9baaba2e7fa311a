"""Where a trusted claim is shown, the ledger still adds up: what was accrued, plus exactly by how much the claim differs."""

import json
from decimal import Decimal
from pathlib import Path

import pytest

from agentrun_stream.testing.stack import Stack
from agentrun_stream.trust.manage import Scope, entry_of
from integration.harness import lane
from integration.signing_kit import FOREIGN, TRUSTED, Honest, finished, step

pytestmark = pytest.mark.stack

DIFFERENCES = "claim_difference, claim_input_tokens, claim_output_tokens, claim_cache_read_tokens, claim_total_tokens"
ACCRUED = """SELECT sum(cost_reported) AS cost, sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
    sum(cache_read_tokens) AS cache_read_tokens FROM accruals FINAL WHERE run_id = '{run}' AND basis = 'run'"""
SETTLED = """SELECT sum(cost_reported) - sum(ifNull(claim_difference, 0)) AS cost,
    sum(input_tokens) - sum(ifNull(claim_input_tokens, 0)) AS input_tokens,
    sum(output_tokens) - sum(ifNull(claim_output_tokens, 0)) AS output_tokens,
    sum(ifNull(cache_read_tokens, 0)) - sum(ifNull(claim_cache_read_tokens, 0)) AS cache_read_tokens
    FROM settlements FINAL WHERE run_id = '{run}'"""


def test_what_a_claim_says_otherwise_is_held_apart(agentrun_stack: Stack, tmp_path: Path) -> None:
    """To the last digit, cost and tokens; nothing where claim and merged snapshot agree; and the audit holds it to that."""
    keys = {"version": 1, "keys": [entry_of(TRUSTED.public, Scope())]}
    (tmp_path / "default.jwks.json").write_text(json.dumps(keys))
    other = {"input_tokens": 17, "output_tokens": 5, "cache_read_tokens": 3, "cost_usd": 0.750000000004}
    differing, agreeing, untrusted = Honest("differing"), Honest("agreeing"), Honest("untrusted", by=FOREIGN)
    later = [honest.run(finished(honest.begin) | {"cost": other}, id="later") for honest in (differing, untrusted)]
    with lane(agentrun_stack, tmp_path, "claim_difference", AGENTRUN_TRUST__DIR=str(tmp_path)) as made:
        made.start()
        made.produce([x for honest in (differing, agreeing, untrusted) for x in honest.events()])
        made.produce([*later, differing.step(step(7) | {"metadata": {"usage": {"input_tokens": 4}}})])
        made.wait()
        rows = made.rows(f"SELECT run_id, {DIFFERENCES} FROM settlements FINAL WHERE runs = 1 ORDER BY run_id")
        nothing = dict.fromkeys(DIFFERENCES.split(", "))
        assert rows[0] == {"run_id": "agreeing", **nothing}
        assert Decimal(rows[1]["claim_difference"]) == Decimal("0.25") - Decimal("0.750000000004")
        assert rows[1] | {"claim_difference": None} == {
            "run_id": "differing",
            **nothing,
            "claim_input_tokens": -7,
            "claim_cache_read_tokens": -3,
        }
        assert rows[2] == {"run_id": "untrusted", **nothing}
        for run in ("differing", "agreeing", "untrusted"):
            accrued, settled = made.one(ACCRUED.format(run=run)), made.one(SETTLED.format(run=run))
            assert settled == {name: value or 0 for name, value in accrued.items()}
        sums = "sum(cost_reported) AS reported, sum(cost_effective) AS effective, count() AS n"
        assert made.one(f"SELECT {sums} FROM settlements FINAL") == made.one(f"SELECT {sums} FROM runs_latest")
        made.assert_exact("--deep")
        for change in ("claim_difference = claim_difference + 0.000000000001", "claim_input_tokens = NULL"):
            with made.kept("settlements"):
                made.execute(f"ALTER TABLE settlements UPDATE {change} WHERE run_id = 'differing'")
                told = made.audit()[1]["differences"]
                assert {one["check"] for one in told} == {"settlements"}
                assert change.split()[0] in {one["column"] for one in told}
        with made.kept("settlements"):
            made.execute("ALTER TABLE settlements UPDATE claim_difference = 1 WHERE run_id = 'agreeing'")
            assert made.audit()[1]["residual"] == 2  # the column, and the sum
        made.assert_exact()

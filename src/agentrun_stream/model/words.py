"""Verdicts in plain words: what each value of an axis, each reason code and each finding means.

Must not live here: how they are found, or printed.
"""

from typing import Final

NOT_PROVED: Final = (
    "A signature shows who asserted these bytes. It does not show that they are true.",
    "Not covered: eval and workspace_id; a replayed older revision; parents, which only a store can look up.",
)
NOT_PROVED_STORED: Final = (
    "A signature shows who asserted these bytes. It does not show that they are true.",
    "It does not show that no later revision was taken away, nor that a parent is verified: `linked` says that it is there.",
)

_AXES: Final = {
    "match": "the stated run_hash is that of the configuration",
    "absent": "nothing to check",
    "intact": "every step that the run commits to arrived, unchanged and in its place",
    "gap": "a step before the last one that arrived is missing",
    "truncated": "the last steps are missing",
    "fork": "a step was changed, added or replaced",
    "wrong_run": "the steps belong to another run",
    "trusted": "holds, by a key that the workspace trusts for this agent at that time",
    "valid_untrusted": "holds, but the workspace does not know the key",
    "invalid": "does not hold: something that it covers was changed, or another key signed",
    "unsigned": "there is none",
    "malformed": "the run breaks a rule of the suite, so it was not looked at",
    "unsupported_suite": "of a suite that this verifier does not know",
    "key_expired": "holds, but the key was not valid at that time",
    "key_revoked": "holds, but the key was revoked by then",
    "scope_violation": "holds, but the key may not sign for this agent",
    "tenant_mismatch": "holds, but was made for another workspace",
    "root": "no parent",
    "linked": "the parents exist with the values that it names",
    "pending": "names parents that were not found closed and signed yet",
    "orphaned": "names parents that did not come in time",
    "cycle": "is its own ancestor",
    "too_deep": "has more ancestors than are looked at",
    "unlogged": "there is no transparency log yet",
}
_MISMATCH: Final = {
    "hash": "the stated run_hash is not that of the configuration",
    "lineage": "what it says of its ancestors is not what they say themselves",
}

REASONS: Final = {
    # the bytes
    "not_utf8": "The bytes are not UTF-8.",
    "bad_json": "The bytes are not JSON.",
    "duplicate_member": "An object has two members of one name, so two readers could take it for two things.",
    "lone_surrogate": "A text holds half of a character.",
    "number_out_of_range": "A number is beyond what every reader holds exactly.",
    "too_deep": "The object nests too deeply.",
    "not_an_object": "The bytes are JSON, but no object.",
    "shape": "A member that the suite reads has a wrong type.",
    "limit_steps": "The run has more steps than a signature may cover.",
    "limit_lineage": "The run names more ancestors than a signed run may.",
    "limit_parents": "The run names more parents than a signed run may.",
    # signed runs
    "arsig_missing": "The run has a signature, but no metadata.arsig that says what for.",
    "arsig_member": "A member of metadata.arsig is missing or has a wrong form.",
    "identifier": "A name in the signed run has characters or a length that signed runs may not have.",
    "run_hash_missing": "A signed run states its run_hash; this one does not.",
    "not_terminal": "Only a run that has ended is signed; this one is open.",
    "signed_by": "signed_by is no did:key of an Ed25519 key.",
    "signature_encoding": "The signature is not written as the suite has it.",
    "suite": "The signature is of a suite that this verifier does not know.",
    "bad_signature": "The signature does not hold: something that it covers was changed, or another key signed.",
    # trust
    "tenant": "The run was signed for another workspace.",
    "key_unknown": "The key is not in the workspace's registry.",
    "key_refused": "The key's entry in the registry is broken, so it counts as not there.",
    "agent_scope": "The key may not sign for this agent.",
    "key_revoked": "The key was revoked before the run arrived.",
    "key_compromised": "The key counts as compromised since before the run arrived.",
    "key_not_yet_valid": "The key was not valid yet when the run arrived.",
    "key_expired": "The key was not valid any more when the run arrived.",
    # hash and chain
    "run_hash_mismatch": "The stated run_hash is not that of the run's configuration.",
    "genesis_mismatch": "The first step belongs to another run.",
    "seq_conflict": "A step arrived with two contents.",
    "prev_mismatch": "A step does not follow from the one before it.",
    "head_mismatch": "The last step is not the one that the run commits to.",
    "seq_beyond_count": "There are more steps than the run commits to.",
    "step_unchained": "A streamed step has no place in the chain that the run commits to.",
    "seq_missing": "A step before the last one that arrived is missing.",
    "tail_missing": "The last steps that the run commits to are missing.",
    "steps_uncovered": "Steps were streamed, and nothing signed commits to them.",
    "step_malformed": "A step could not be read, so it never arrived.",
    "rev_conflict": "The same key signed two contents under one revision.",
    # lineage
    "lineage_cycle": "The run is its own ancestor.",
    "lineage_mismatch": "The lineage is not that of the parent, followed by the parent.",
    "lineage_too_deep": "The run has more ancestors than are looked at.",
    "ancestor_cycle": "An ancestor of the run is its own ancestor.",
    "parent_unnamed": "The run names a parent's hash or a lineage, but no parent.",
    "parent_hash_mismatch": "The parent's run_hash is not the one that the run names.",
    "parent_genesis_mismatch": "The parent's genesis is not the one that the run names.",
    "parent_unknown": "A parent has not arrived.",
    "parent_open": "A parent has not ended.",
    "parent_unproved": "A parent has no trusted signature to compare with.",
    "parent_expired": "A parent is past retention.",
}

FINDINGS: Final = {
    "row_missing": "The run has no row in `runs`.",
    "row_differs": "The stored row shows another value than what it is made from.",
    "verdict_differs": "The stored verdict is not the one that the bytes give.",
    "judged_otherwise": "The stored verdict is of another registry or verifier, or from before its parents changed, and differs.",
    "evidence_missing": "The bytes of a signed event are not in `evidence`.",
    "evidence_of_another_run": "The bytes in `evidence` are of another run.",
    "claim_missing": "The bytes of a signed snapshot are in `evidence`, but the run's objects do not have it.",
    "claim_differs": "A stored signed snapshot is not what the bytes in `evidence` say.",
    "append_time_differs": "The stored time at which a signed event arrived is not the one in `evidence`.",
    "step_bytes_missing": "The bytes of a chained step are not there.",
    "step_bytes_differ": "The bytes of a step do not give what its row says of the chain.",
    "step_columns_differ": "A step shows other values than its signed bytes.",
    "step_not_signed": "A step is stored as part of a signed snapshot that does not hold it.",
    "told_verdict_differs": "The verdict written in the bundle is not the one that its bytes give.",
}


def meaning(axis: str, word: str) -> str:
    """What a value of an axis means."""
    return _MISMATCH.get(axis, "") if word == "mismatch" else _AXES.get(word, "")


def sentence(code: str) -> str:
    """What a reason code or a finding means."""
    return REASONS.get(code) or FINDINGS.get(code) or code

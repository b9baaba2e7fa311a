"""The audit: folds the log again, up to the committed offsets, and compares everything the store and the topics show.

It reads, and disturbs nothing. Must not live here: repairing (runtime/repair.py), or SQL (store/audit.py).
"""

from agentrun_stream.runtime.audit.audit import Audit, Scope
from agentrun_stream.runtime.audit.findings import CHECKS, Difference, Findings
from agentrun_stream.runtime.audit.refold import Reach, Rules
from agentrun_stream.runtime.audit.views import AuditLog, AuditReader

__all__ = ["CHECKS", "Audit", "AuditLog", "AuditReader", "Difference", "Findings", "Reach", "Rules", "Scope"]

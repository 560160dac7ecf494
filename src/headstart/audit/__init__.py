"""What is wrong with the data, found before any training: ``headstart check DATA``, and the warnings of ``fit``."""

from headstart.audit.checks import check, check_known
from headstart.audit.findings import SEVERITIES, Audit, Finding

__all__ = ["SEVERITIES", "Audit", "Finding", "check", "check_known"]

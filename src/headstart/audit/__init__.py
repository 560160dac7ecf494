"""What is wrong with the data: ``headstart check DATA``, and the warnings of ``fit``.

Everything here works on files and on arrays that others have computed; nothing is trained, and no data are changed.
"""

from headstart.audit.checks import check, check_known, group_pattern
from headstart.audit.copies import find_near_copies
from headstart.audit.facts import Facts
from headstart.audit.findings import Audit, Finding, gravest_first
from headstart.audit.inspections import Inspection, gather, in_words_of, inspection_of
from headstart.audit.label_errors import LabelErrors, find_label_errors, rank_label_errors
from headstart.audit.near_copies import NearCopies, near_copies
from headstart.audit.outliers import find_outliers
from headstart.audit.plan import Drop, LookAt, Plan, Relabel, make_plan

__all__ = [
    "Audit", "Drop", "Facts", "Finding", "Inspection", "LabelErrors", "LookAt", "NearCopies", "Plan", "Relabel", "check", "check_known",
    "find_label_errors", "find_near_copies", "find_outliers", "gather", "gravest_first", "group_pattern", "in_words_of", "inspection_of",
    "make_plan", "near_copies", "rank_label_errors",
]  # fmt: skip

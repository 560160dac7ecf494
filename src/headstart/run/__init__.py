"""The run folder: what `fit` writes, and what `predict`, `evaluate` and everything later read. No pickle in it."""

from headstart.run.collected import Collected
from headstart.run.manifest import MANIFEST, MODEL, PROTOCOL, BackboneEntry, Manifest, is_run, read_manifest
from headstart.run.run import EVALUATION, PAGES, REFERENCE, RELIABILITY, SPLIT, Run, load
from headstart.run.uses import Use, record_use, uses_of
from headstart.run.write import RunContents, check_target, replace_pages, reserved, seal, write_files, writing_run

__all__ = [
    "EVALUATION", "MANIFEST", "MODEL", "PAGES", "PROTOCOL", "REFERENCE", "RELIABILITY", "SPLIT", "BackboneEntry", "Collected", "Manifest",
    "Run", "RunContents", "Use", "check_target", "is_run", "load", "read_manifest", "record_use",
    "replace_pages", "reserved", "seal", "uses_of", "write_files", "writing_run",
]  # fmt: skip

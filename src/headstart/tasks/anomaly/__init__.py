"""Anomaly detection: which images differ from the good ones, and where; only good images are learned from."""

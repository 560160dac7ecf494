"""Scores from arrays: NumPy in, numbers out; no other library is imported, so that `evaluate` starts at once.

What cannot be known (the AUC of a class without images, the precision of a class never predicted) is ``nan``, without a warning.
An average over classes is an average over the classes that occur in the targets.
"""

from headstart.metrics.intervals import (
    AucDifference,
    BootstrapIntervals,
    PairedDifference,
    accuracy_interval,
    auc_and_error,
    auc_difference,
    bootstrap_intervals,
    holm,
    mean_accuracy_interval,
    paired_difference,
    resamples,
)
from headstart.metrics.link import SIGMOID, SOFTMAX, THRESHOLD, Link, link_named, link_of, saved_link
from headstart.metrics.scores import (
    CalibrationBins,
    ClassScores,
    accuracy,
    accuracy_coverage,
    average_precision,
    brier_score,
    calibration_bins,
    calibration_error_by_chance,
    class_average,
    confusion_matrix,
    defined_mean,
    expected_calibration_error,
    hamming_loss,
    indicators,
    log_loss,
    micro_scores,
    precision_recall_curve,
    precision_recall_f1,
    roc_auc,
    roc_curve,
    top_k_accuracy,
)

__all__ = [
    "SIGMOID", "SOFTMAX", "THRESHOLD", "AucDifference", "BootstrapIntervals", "CalibrationBins", "ClassScores", "Link", "PairedDifference",
    "accuracy", "accuracy_coverage", "accuracy_interval", "auc_and_error", "auc_difference", "average_precision", "bootstrap_intervals",
    "brier_score", "calibration_bins", "calibration_error_by_chance", "class_average", "confusion_matrix", "defined_mean",
    "expected_calibration_error", "hamming_loss", "holm", "indicators", "link_named", "link_of", "log_loss",
    "mean_accuracy_interval", "micro_scores",
    "paired_difference", "precision_recall_curve", "precision_recall_f1", "resamples", "roc_auc", "roc_curve", "saved_link",
    "top_k_accuracy",
]  # fmt: skip

"""The scores that are shown, and what they are called."""

from __future__ import annotations

SCORE_WORDS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "most_frequent_class_accuracy": "always the most frequent class",
    "top_5_accuracy": "among the first five",
    "hamming_loss": "wrong labels (Hamming loss)",
    "f1_micro": "F1, all labels together (micro)",
    "f1_macro": "F1, mean of classes (macro)",
    "log_loss": "log loss",
    "brier_score": "Brier score",
    "roc_auc": "ROC-AUC",
    "average_precision": "average precision",
    "calibration_error": "calibration error (ECE)",
}
"""The scores that are shown, in this order; all others are stored only."""

CLASS_COLUMNS = {
    "images": "images",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "roc_auc": "ROC-AUC",
}
"""The scores of each class that are shown, in this order."""

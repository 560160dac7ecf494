"""`TransferClassifier`, the scikit-learn estimator over everything below."""

from headstart.classifier.estimator import TransferClassifier
from headstart.classifier.inputs import check_images

__all__ = ["TransferClassifier", "check_images"]

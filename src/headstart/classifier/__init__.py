"""`TransferClassifier`, the scikit-learn estimator over everything below."""

from headstart.classifier.estimator import TransferClassifier
from headstart.classifier.given import check_images
from headstart.classifier.training import Keeping, check_plan, taken

__all__ = ["Keeping", "TransferClassifier", "check_images", "check_plan", "taken"]

"""The base of heads and maps: a scikit-learn estimator that imports scikit-learn only where it is asked for.

Importing scikit-learn, which brings `scipy.stats`, and pandas where it is installed, was a third of a fit from stored features. So the
plain case, features as finite float32 arrays, does without; everything else goes through scikit-learn's own validation.
`parametrize_with_checks` holds the contract.
"""

from __future__ import annotations

import inspect
from typing import Any, Self, TypeGuard

import numpy as np
import numpy.typing as npt

from headstart.matrix import RowView


class Estimator:
    """Parameters, tags and the validation of inputs, as of scikit-learn's `BaseEstimator`.

    Attributes:
        n_features_in_: width of the features it was fitted on.
    """

    n_features_in_: int

    @classmethod
    def _get_param_names(cls) -> list[str]:
        return sorted(inspect.signature(cls).parameters)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters of the constructor; with `deep` also those of estimators among them, as ``name__parameter``."""
        found = {name: getattr(self, name) for name in self._get_param_names()}
        for name, value in list(found.items()):
            if deep and isinstance(value, Estimator):
                found |= {f"{name}__{inner}": setting for inner, setting in value.get_params().items()}
        return found

    def set_params(self, **parameters: Any) -> Self:
        """Set parameters by the names that `get_params` gives.

        Raises:
            ValueError: an unknown name.
        """
        known = self.get_params()
        for name, value in parameters.items():
            if name not in known:
                raise ValueError(f"Invalid parameter {name!r} for {self!r}. Its parameters are {', '.join(self._get_param_names())}.")
            owner, _, inner = name.partition("__")
            if inner:
                getattr(self, owner).set_params(**{inner: value})
            else:
                setattr(self, name, value)
        return self

    def clone(self) -> Self:
        """An unfitted estimator with the same parameters."""
        return type(self)(
            **{name: value.clone() if isinstance(value, Estimator) else value for name, value in self.get_params(False).items()}
        )

    def __repr__(self) -> str:
        default = inspect.signature(type(self)).parameters
        changed = [f"{name}={value!r}" for name, value in self.get_params(False).items() if value is not default[name].default]
        return f"{type(self).__name__}({', '.join(changed)})"

    def __sklearn_tags__(self) -> Any:
        from sklearn.base import BaseEstimator

        return BaseEstimator.__sklearn_tags__(self)

    def check_fitted(self, attribute: str) -> None:
        """Raise scikit-learn's `NotFittedError` where the learned attribute is not there."""
        if not hasattr(self, attribute):
            from sklearn.utils.validation import check_is_fitted

            check_is_fitted(self, attribute)

    def checked(self, X: npt.ArrayLike, *, reset: bool = False) -> npt.NDArray[np.float32]:
        """Features as a finite float32 matrix (n, D); `reset` takes D from them, else they must have `n_features_in_`.

        Raises:
            ValueError: another shape or width, or values that are not finite.
        """
        if _plain(X) and not hasattr(self, "feature_names_in_") and (reset or X.shape[1] == self.n_features_in_):
            if reset:
                self.n_features_in_ = X.shape[1]
            return X
        from sklearn.utils.validation import validate_data

        found: npt.NDArray[np.float32] = validate_data(self, X, dtype=np.float32, reset=reset)
        return found

    def checked_pair(self, X: npt.ArrayLike, y: npt.ArrayLike) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
        """As `checked` with `reset`, and the targets: n labels, or a matrix (n, k).

        Raises:
            ValueError: also for targets of another length, or that are missing or not finite.
        """
        if _plain(X) and isinstance(y, np.ndarray) and y.dtype.kind in "biuU" and len(y) == len(X):
            return self.checked(X, reset=True), y
        from sklearn.utils.validation import validate_data

        return validate_data(self, X, y, dtype=np.float32, multi_output=True)  # type: ignore[no-any-return]


def _plain(X: Any) -> TypeGuard[npt.NDArray[np.float32]]:
    """Whether nothing needs validation: a float32 matrix of at least one row and column with finite values.

    Views are made from matrices that have been checked.
    """
    if isinstance(X, RowView):
        return True
    if type(X) is not np.ndarray or X.dtype != np.float32 or X.ndim != 2 or not X.size:
        return False
    with np.errstate(invalid="ignore"):  # of infinities of both signs, the sum is nan
        return bool(np.isfinite(X.sum(dtype=np.float64)))

"""Boosters of LightGBM and XGBoost, which know nothing of scikit-learn, with the faces of its estimators."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin


class _Booster(BaseEstimator):  # type: ignore[misc]
    library = ""

    def __init__(self, booster: Any) -> None:
        self.booster = booster

    @property
    def booster_(self) -> Any:
        return self.booster

    def __sklearn_is_fitted__(self) -> bool:
        return True


class _LightGbm(_Booster):
    library = "lightgbm"

    @property
    def n_features_in_(self) -> int:
        return int(self.booster.num_feature())

    def predict(self, rows: Any) -> np.ndarray:
        return np.asarray(self.booster.predict(rows, validate_features=False))


class LightGbmRegressor(RegressorMixin, _LightGbm):  # type: ignore[misc]
    """A booster whose answers are numbers."""


class LightGbmClassifier(ClassifierMixin, _LightGbm):  # type: ignore[misc]
    """A booster whose answers are probabilities."""

    def __init__(self, booster: Any, classes: int) -> None:
        super().__init__(booster)
        self.classes = classes

    @property
    def classes_(self) -> np.ndarray:
        return np.arange(self.classes)

    def predict_proba(self, rows: Any) -> np.ndarray:
        return _two(super().predict(rows))

    def predict(self, rows: Any) -> np.ndarray:
        return np.asarray(self.predict_proba(rows).argmax(1))


class _Xgboost(_Booster):
    library = "xgboost"

    @property
    def n_features_in_(self) -> int:
        return int(self.booster.num_features())

    def _data(self, rows: Any) -> Any:
        import xgboost

        names, kinds = self.booster.feature_names, self.booster.feature_types
        if hasattr(rows, "columns"):
            return xgboost.DMatrix(rows, enable_categorical=True)
        return xgboost.DMatrix(rows, feature_names=names, feature_types=kinds, enable_categorical=True)

    def predict(self, rows: Any) -> np.ndarray:
        return np.asarray(self.booster.predict(self._data(rows)))


class XgboostRegressor(RegressorMixin, _Xgboost):  # type: ignore[misc]
    """A booster whose answers are numbers."""


class XgboostClassifier(ClassifierMixin, _Xgboost):  # type: ignore[misc]
    """A booster whose answers are probabilities. ``softmax``: those that it keeps to itself, as ``multi:softmax`` does."""

    def __init__(self, booster: Any, classes: int, softmax: bool = False) -> None:
        super().__init__(booster)
        self.classes = classes
        self.softmax = softmax

    @property
    def classes_(self) -> np.ndarray:
        return np.arange(self.classes)

    def predict_proba(self, rows: Any) -> np.ndarray:
        if self.softmax:
            raw = np.asarray(self.booster.predict(self._data(rows), output_margin=True))
            shifted = np.exp(raw - raw.max(1, keepdims=True))
            return np.asarray(shifted / shifted.sum(1, keepdims=True))
        return _two(super().predict(rows))

    def predict(self, rows: Any) -> np.ndarray:
        if self.softmax:
            return np.asarray(super().predict(rows)).astype(np.int64)
        shares = super().predict(rows)
        return np.asarray(shares > 0.5 if shares.ndim == 1 else shares.argmax(1)).astype(np.int64)


def _two(shares: np.ndarray) -> np.ndarray:
    return np.stack([1 - shares, shares], 1) if shares.ndim == 1 else shares

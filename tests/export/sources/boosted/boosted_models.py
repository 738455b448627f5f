"""Small models of LightGBM, XGBoost and CatBoost: one function for each, which gives the fitted model and rows to compare on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

ROWS, FEATURES = 400, 6
LIGHT = {"n_estimators": 12, "num_leaves": 8, "verbose": -1, "n_jobs": 1, "random_state": 0, "min_child_samples": 5}
XGB = {"n_estimators": 12, "max_depth": 4, "n_jobs": 1, "random_state": 0}
CAT = {"iterations": 12, "depth": 4, "verbose": 0, "allow_writing_files": False, "random_seed": 0, "thread_count": 1}

Made = tuple[Any, Any]


def rows(missing: float = 0.0, dtype: type = np.float32) -> np.ndarray:
    """Rounded, so that many values are equal to thresholds."""
    rng = np.random.default_rng(3)
    made = np.round(rng.normal(size=(ROWS, FEATURES)), 1)
    made[:, 2] = np.where(rng.random(ROWS) < 0.4, 0.0, made[:, 2])
    made[rng.random(made.shape) < missing] = np.nan
    return made.astype(dtype)


def number(x: np.ndarray) -> np.ndarray:
    filled = np.nan_to_num(np.asarray(x, np.float64), nan=-0.7)
    return filled[:, 0] * 2 + np.abs(filled[:, 1]) - filled[:, 2] * filled[:, 3]


def positive(x: np.ndarray) -> np.ndarray:
    return np.exp(number(x) / 4)


def two(x: np.ndarray) -> np.ndarray:
    return (number(x) > 0.6).astype(int)


def three(x: np.ndarray) -> np.ndarray:
    return np.digitize(number(x), [-0.5, 1.5])


def codes() -> np.ndarray:
    """The last feature holds the categories 0 to 8."""
    made = rows(0.05, np.float64)
    made[:, 5] = np.random.default_rng(4).integers(0, 9, ROWS)
    return made


def frame(missing: bool = True) -> pd.DataFrame:
    rng = np.random.default_rng(5)
    made = pd.DataFrame(rows(0.05 if missing else 0.0, np.float64)[:, :3], columns=["a", "b", "c"])
    town = rng.choice(["Oslo", "Bern", "Rome", "Kyiv", "Lima"], ROWS).astype(object)
    if missing:
        town[rng.random(ROWS) < 0.1] = None
    made["town"] = pd.Categorical(town)
    made["count"] = rng.integers(0, 7, ROWS)
    made["grade"] = pd.Categorical(rng.choice([3, 5, 11], ROWS))
    return made


def of_frame(made: pd.DataFrame) -> np.ndarray:
    town = made["town"].astype(object)
    answer = np.nan_to_num(made["a"].to_numpy()) + 1.5 * np.isin(town, ["Oslo", "Lima"]) + 0.4 * (made["count"] > 3)
    return np.asarray(answer - 0.8 * (made["grade"].astype(int) == 5) > 0.5).astype(int)


def _lightgbm(kind: str, target: Callable[[np.ndarray], np.ndarray], missing: float = 0.0, **options: Any) -> Callable[[], Made]:
    def make() -> Made:
        import lightgbm

        x = rows(missing, np.float64)
        return getattr(lightgbm, kind)(**{**LIGHT, **options}).fit(x, target(x)), x

    return make


def _xgboost(kind: str, target: Callable[[np.ndarray], np.ndarray], missing: float = 0.0, **options: Any) -> Callable[[], Made]:
    def make() -> Made:
        import xgboost

        x = rows(missing)
        return getattr(xgboost, kind)(**{**XGB, **options}).fit(x, target(x)), x

    return make


def _catboost(kind: str, target: Callable[[np.ndarray], np.ndarray], missing: float = 0.0, **options: Any) -> Callable[[], Made]:
    def make() -> Made:
        import catboost

        x = rows(missing)
        return getattr(catboost, kind)(**{**CAT, **options}).fit(x, target(x)), x

    return make


def lightgbm_categories() -> Made:
    import lightgbm

    x = codes()
    return lightgbm.LGBMClassifier(**LIGHT).fit(x, two(x) ^ (x[:, 5] % 3 == 1), categorical_feature=[5]), x


def lightgbm_frame() -> Made:
    import lightgbm

    x = frame()
    return lightgbm.LGBMClassifier(**LIGHT, min_data_per_group=5, cat_smooth=1).fit(x, of_frame(x)), x


def lightgbm_ranker() -> Made:
    import lightgbm

    x = rows()
    return lightgbm.LGBMRanker(**LIGHT).fit(x, three(x), group=[20] * 20), x


def lightgbm_early() -> Made:
    import lightgbm

    x = rows()
    model = lightgbm.LGBMClassifier(**{**LIGHT, "n_estimators": 60, "learning_rate": 0.9})
    return model.fit(x[:300], two(x[:300]), eval_set=[(x[300:], two(x[300:]))], callbacks=[lightgbm.early_stopping(3, verbose=False)]), x


def lightgbm_booster() -> Made:
    import lightgbm

    x = rows(0.1, np.float64)
    parameters = {"objective": "multiclassova", "num_class": 3, "verbose": -1, "num_threads": 1, "num_leaves": 6}
    return lightgbm.train(parameters, lightgbm.Dataset(x, three(x)), 8), x


def lightgbm_names() -> Made:
    import lightgbm

    x = rows()
    return lightgbm.LGBMClassifier(**LIGHT).fit(x, np.array(["cat", "ant", "bee"])[three(x)]), x


def xgboost_categories() -> Made:
    import xgboost

    x = codes().astype(np.float32)
    kinds = ["q"] * 5 + ["c"]
    model = xgboost.XGBClassifier(**XGB, enable_categorical=True, feature_types=kinds, max_cat_to_onehot=2)
    return model.fit(x, two(x) ^ (x[:, 5] % 3 == 1)), x


def xgboost_frame() -> Made:
    import xgboost

    x = frame()
    return xgboost.XGBClassifier(**XGB, enable_categorical=True, max_cat_to_onehot=2).fit(x, of_frame(x)), x


def xgboost_ranker() -> Made:
    import xgboost

    x = rows()
    return xgboost.XGBRanker(**XGB).fit(x, three(x), qid=np.repeat(np.arange(20), 20)), x


def xgboost_early() -> Made:
    import xgboost

    x = rows()
    model = xgboost.XGBClassifier(**{**XGB, "n_estimators": 60, "learning_rate": 0.9}, early_stopping_rounds=3)
    return model.fit(x[:300], two(x[:300]), eval_set=[(x[300:], two(x[300:]))], verbose=False), x


def xgboost_outputs(**options: Any) -> Callable[[], Made]:
    def make() -> Made:
        import xgboost

        x = rows()
        return xgboost.XGBRegressor(**{**XGB, **options}).fit(x, np.stack([number(x), positive(x)], 1)), x

    return make


def xgboost_questions() -> Made:
    import xgboost

    x = rows()
    return xgboost.XGBClassifier(**XGB).fit(x, np.stack([two(x), (x[:, 4] > 0).astype(int)], 1)), x


def xgboost_booster(objective: str) -> Callable[[], Made]:
    def make() -> Made:
        import xgboost

        x = rows(0.1)
        classes = {"num_class": 3} if objective.startswith("multi") else {}
        label = three(x) if classes else two(x)
        return xgboost.train({"objective": objective, "max_depth": 3, "nthread": 1, **classes}, xgboost.DMatrix(x, label), 8), x

    return make


def catboost_one_hot() -> Made:
    import catboost

    x = frame().astype({"town": object})
    x["town"] = x["town"].fillna("unknown").astype(str)
    x["grade"] = x["grade"].astype(int)
    model = catboost.CatBoostClassifier(**CAT, cat_features=["town", "count", "grade"], one_hot_max_size=255)
    return model.fit(x, of_frame(x.assign(grade=x["grade"]))), x


def catboost_names() -> Made:
    import catboost

    x = rows()
    return catboost.CatBoostClassifier(**CAT).fit(x, np.array(["cat", "ant", "bee"])[three(x)]), x


def catboost_base() -> Made:
    import catboost

    x = rows()
    return catboost.CatBoost({**CAT, "loss_function": "Logloss"}).fit(x, two(x)), x


def catboost_outputs() -> Made:
    import catboost

    x = rows()
    return catboost.CatBoostRegressor(**CAT, loss_function="MultiRMSE").fit(x, np.stack([number(x), positive(x)], 1)), x


def pipeline(library: str) -> Callable[[], Made]:
    def make() -> Made:
        from sklearn.compose import ColumnTransformer
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder, StandardScaler

        x = frame(missing=False).astype({"town": object, "grade": int})
        y = of_frame(x)
        prepared = ColumnTransformer([("n", StandardScaler(), ["a", "b", "c"]), ("t", OneHotEncoder(handle_unknown="ignore"), ["town"])])
        return make_pipeline(prepared, _final(library)).fit(x, y), x

    return make


def _final(library: str) -> Any:
    if library == "lightgbm":
        import lightgbm

        return lightgbm.LGBMClassifier(**LIGHT)
    if library == "xgboost":
        import xgboost

        return xgboost.XGBClassifier(**XGB)
    import catboost

    return catboost.CatBoostClassifier(**CAT)


MODELS: dict[str, Callable[[], Made]] = {
    "lightgbm two classes": _lightgbm("LGBMClassifier", two, 0.1),
    "lightgbm three classes": _lightgbm("LGBMClassifier", three),
    "lightgbm regression": _lightgbm("LGBMRegressor", number, 0.1),
    "lightgbm zeros are missing": _lightgbm("LGBMRegressor", number, zero_as_missing=True),
    "lightgbm NaN is zero": _lightgbm("LGBMRegressor", number, use_missing=False),
    "lightgbm random forest": _lightgbm("LGBMClassifier", two, boosting_type="rf", bagging_freq=1, bagging_fraction=0.6),
    "lightgbm random forest, three classes": _lightgbm("LGBMClassifier", three, boosting_type="rf", bagging_freq=1, bagging_fraction=0.6),
    "lightgbm dart": _lightgbm("LGBMClassifier", two, boosting_type="dart"),
    "lightgbm goss": _lightgbm("LGBMRegressor", number, data_sample_strategy="goss"),
    "lightgbm poisson": _lightgbm("LGBMRegressor", positive, objective="poisson"),
    "lightgbm quantile": _lightgbm("LGBMRegressor", number, objective="quantile", alpha=0.8),
    "lightgbm of square roots": _lightgbm("LGBMRegressor", positive, reg_sqrt=True),
    "lightgbm cross entropy": _lightgbm("LGBMRegressor", two, objective="cross_entropy"),
    "lightgbm linear leaves": _lightgbm("LGBMRegressor", number, 0.1, linear_tree=True),
    "lightgbm categories": lightgbm_categories,
    "lightgbm frame": lightgbm_frame,
    "lightgbm ranker": lightgbm_ranker,
    "lightgbm stopped early": lightgbm_early,
    "lightgbm booster": lightgbm_booster,
    "lightgbm names of classes": lightgbm_names,
    "lightgbm pipeline": pipeline("lightgbm"),
    "xgboost two classes": _xgboost("XGBClassifier", two, 0.1),
    "xgboost three classes": _xgboost("XGBClassifier", three),
    "xgboost regression": _xgboost("XGBRegressor", number, 0.1),
    "xgboost base score": _xgboost("XGBClassifier", two, base_score=0.2),
    "xgboost poisson": _xgboost("XGBRegressor", positive, objective="count:poisson"),
    "xgboost gamma": _xgboost("XGBRegressor", positive, objective="reg:gamma"),
    "xgboost absolute error": _xgboost("XGBRegressor", number, objective="reg:absoluteerror"),
    "xgboost quantiles": _xgboost("XGBRegressor", number, objective="reg:quantileerror", quantile_alpha=[0.2, 0.8]),
    "xgboost hinge": _xgboost("XGBClassifier", two, objective="binary:hinge"),
    "xgboost dart": _xgboost("XGBClassifier", two, booster="dart", rate_drop=0.4),
    "xgboost linear": _xgboost("XGBRegressor", number, booster="gblinear", max_depth=None),
    "xgboost linear, three classes": _xgboost("XGBClassifier", three, 0.1, booster="gblinear", max_depth=None),
    "xgboost random forest": _xgboost("XGBRFClassifier", three),
    "xgboost parallel trees": _xgboost("XGBClassifier", three, num_parallel_tree=3, n_estimators=4, subsample=0.7),
    "xgboost two outputs": xgboost_outputs(),
    "xgboost leaves of two numbers": xgboost_outputs(multi_strategy="multi_output_tree"),
    "xgboost two questions": xgboost_questions,
    "xgboost categories": xgboost_categories,
    "xgboost frame": xgboost_frame,
    "xgboost ranker": xgboost_ranker,
    "xgboost stopped early": xgboost_early,
    "xgboost booster": xgboost_booster("binary:logistic"),
    "xgboost booster, softmax": xgboost_booster("multi:softmax"),
    "xgboost booster, margins": xgboost_booster("binary:logitraw"),
    "xgboost pipeline": pipeline("xgboost"),
    "catboost two classes": _catboost("CatBoostClassifier", two, 0.1),
    "catboost three classes": _catboost("CatBoostClassifier", three),
    "catboost one against all": _catboost("CatBoostClassifier", three, loss_function="MultiClassOneVsAll"),
    "catboost regression": _catboost("CatBoostRegressor", number),
    "catboost missing above": _catboost("CatBoostRegressor", number, 0.1, nan_mode="Max"),
    "catboost poisson": _catboost("CatBoostRegressor", positive, loss_function="Poisson"),
    "catboost depthwise": _catboost("CatBoostClassifier", three, 0.1, grow_policy="Depthwise"),
    "catboost lossguide": _catboost("CatBoostRegressor", number, 0.1, grow_policy="Lossguide", nan_mode="Max"),
    "catboost one-hot categories": catboost_one_hot,
    "catboost names of classes": catboost_names,
    "catboost plain": catboost_base,
    "catboost two outputs": catboost_outputs,
    "catboost pipeline": pipeline("catboost"),
}
"""By name: a function that fits the model."""

"""LightGBM, XGBoost and CatBoost: their trees read from what they save, and written as operators of our own choice.

None of the three packages is imported here, except to run a model and to open its file.
"""

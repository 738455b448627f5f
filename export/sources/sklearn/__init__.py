"""scikit-learn estimators and pipelines as sources."""

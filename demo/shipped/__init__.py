"""The included models as the pages show them: opened once, their figures, their explanations."""

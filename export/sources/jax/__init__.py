"""JAX functions and modules (Flax NNX, Flax Linen, Equinox) as a source.

``model.py`` makes a function of arrays from what the user gives, ``source.py`` runs it, ``convert.py`` turns what JAX traces into a graph
with one function of ``lowerings/`` for each primitive, and ``replay.py`` runs the same trace in double precision, or with the rounding
errors of another library.
"""

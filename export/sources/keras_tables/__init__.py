"""Keras models whose inputs go through tables that only TensorFlow holds: StringLookup, TextVectorization, IntegerLookup."""

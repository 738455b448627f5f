"""TensorFlow's SavedModels, functions and TensorFlow Lite files, run and converted in a process of their own."""

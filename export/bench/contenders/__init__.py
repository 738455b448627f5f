"""The benchmark's backends: onnxferry and what a user would choose instead."""

"""``python -m onnxferry``: the ``onnxferry`` command where its script is not on the path."""

from onnxferry.runtime.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())

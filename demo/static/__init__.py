"""The demo as a static site: ``onnxferry demo --static DIR``. The models run in the visitor's browser, on onnxruntime-web.

``site/`` has the pages' sources, :mod:`.build` writes a site of them. It needs neither Streamlit nor an ONNX Runtime in Python.
"""

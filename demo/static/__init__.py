"""The demo as a static site: ``onnxferry demo --static DIR``. The models run in the visitor's browser, on onnxruntime-web.

``site/`` has the pages' sources, :mod:`.build` writes a site of them, and :mod:`.web_runtime` gets the files of onnxruntime-web.
Neither needs Streamlit or an ONNX Runtime in Python.
"""

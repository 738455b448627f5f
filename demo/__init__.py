"""onnxferry.demo: the shipped models in a browser, and a model of your own. Imports the runtime only.

``onnxferry demo``, or ``streamlit run demo/app.py`` in a clone. ``app.py`` names the pages, ``pages/`` holds one file a page, and
what they compute and show lies beside them as functions that know nothing of Streamlit.
"""

"""The demo's server: the pages of ``navigation.py`` behind the headers and bounds of ``serving/``.

``onnxferry demo`` and ``streamlit run demo/app.py`` both start here.
"""

from __future__ import annotations

from pathlib import Path

from streamlit import App

from onnxferry.demo.serving.middleware import MIDDLEWARE

app = App(Path(__file__).with_name("navigation.py"), middleware=MIDDLEWARE)

"""The demo's server: the pages of ``serving/navigation.py`` behind the headers and bounds of ``serving/middleware.py``.

``onnxferry demo`` and ``streamlit run demo/app.py`` both start here.
"""

from __future__ import annotations

from pathlib import Path

from streamlit import App

from onnxferry.demo.serving.middleware import MIDDLEWARE

app = App(Path(__file__).parent / "serving" / "navigation.py", middleware=MIDDLEWARE)

"""One file a page. Each has one public function, ``page``, which Streamlit runs from top to bottom at every change."""

"""What Streamlit serves: the bar and its pages, behind security headers and a bound on uploads."""

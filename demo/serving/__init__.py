"""What stands between the browser and Streamlit: security headers, the page's head, and a bound on uploads."""

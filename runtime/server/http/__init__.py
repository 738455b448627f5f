"""The server over HTTP: the routes, what every request passes first, and the bounds of a connection."""

"""The commands export, verify, diff, optimize, bench and quickstart. Only here are typer and rich imported."""

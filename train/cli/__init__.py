"""One file a family: its options and help. Only here are typer and rich imported."""

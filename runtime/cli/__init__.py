"""One file a command. Only here are typer and rich imported."""

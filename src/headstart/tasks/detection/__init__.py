"""Detection: where things of which class are."""

"""Several columns of labels, learned on one backbone."""

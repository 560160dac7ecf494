"""Classification: one label for each input, or any number of them."""

"""Why it is run: one file per published figure or table: the claim, the paper's numbers, how to draw it."""

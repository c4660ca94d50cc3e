"""Why it is run: one file per published figure or table, with the claim, the paper's numbers and how to draw it."""

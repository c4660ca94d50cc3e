"""Figures, tables and the HTML page, from result files only: nothing here imports jax or training code."""

"""Measurements of normres beside other libraries: accuracy and speed.  `normres bench --help` lists them."""

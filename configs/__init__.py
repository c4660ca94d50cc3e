"""What to run: base.py holds every field; each other file is base plus the lines that differ, and a sweep()."""

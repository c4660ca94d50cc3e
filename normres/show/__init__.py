"""`normres show`: what a config's network consists of, as a table and as a picture; trains nothing."""

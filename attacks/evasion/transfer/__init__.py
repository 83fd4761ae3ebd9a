"""Transfer: ascent on nets of the adversary's own, and what the literature does to input and gradient beside it."""

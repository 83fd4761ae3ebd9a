"""Transfer: ascent on nets of the adversary's own, with what the literature does to input and gradient to carry over."""

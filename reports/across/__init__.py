"""What a paper takes from several seeds, radii, models and attacks of one run, as sections. Imports no torch."""

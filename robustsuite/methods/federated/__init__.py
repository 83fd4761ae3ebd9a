"""What gradient inversion is made of: clients' updates, what is observed, matching, priors."""

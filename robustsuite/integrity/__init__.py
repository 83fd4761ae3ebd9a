"""What is noticed: the table of checks, probes of a system, and what cells say of one another."""

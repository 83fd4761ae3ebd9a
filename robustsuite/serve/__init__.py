"""What is attacked and how it answers: data, networks, defenses' stages, the lifecycle, the oracle, the judge."""

"""What is asked: threats, goals, the yaml keys of a threat, plugins' cards and what tells them apart."""

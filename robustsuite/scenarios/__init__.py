"""The protocols between one adversary and one lifecycle: what it is handed, what it returns, how it is judged."""

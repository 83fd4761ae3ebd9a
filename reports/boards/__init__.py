"""Systems against one another, and every cell, as pages: the leaderboard and what it is made of."""

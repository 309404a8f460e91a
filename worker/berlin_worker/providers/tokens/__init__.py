"""Login tokens: who logs in, how long a token is used, and its encryption."""

"""Values of the environment and URLs: parsed, checked, and printed without secrets."""

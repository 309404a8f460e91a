"""`berlin batch`."""

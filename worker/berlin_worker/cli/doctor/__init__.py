"""`berlin doctor`."""

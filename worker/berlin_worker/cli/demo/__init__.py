"""`berlin demo`."""

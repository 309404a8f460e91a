"""`berlin top`."""

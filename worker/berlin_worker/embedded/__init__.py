"""A Redis and a stand-in upstream for the demo and the tests: nothing to install."""

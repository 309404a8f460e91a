"""What the demo and the tests run on: a Redis and a stand-in upstream, nothing to install."""

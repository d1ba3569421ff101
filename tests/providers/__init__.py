"""Real clients against a real HTTP server: the one place where tests use real time."""

"""Many networks, many seeds: what a remedy changes, what it costs, and how certain that is."""

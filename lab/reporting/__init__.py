"""What `lab run` and `lab shiftmap` write."""

"""What the live page loads."""

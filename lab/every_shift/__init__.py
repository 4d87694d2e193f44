"""All shifts of an image at once: dense networks, and maps over the shifts."""

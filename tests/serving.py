"""A server of files for the tests in a browser."""

import http.server
from contextlib import suppress


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def handle(self):
        with suppress(ConnectionError):  # a browser that has left while a page was loading
            super().handle()

    def log_message(self, *arguments):
        """Say nothing."""

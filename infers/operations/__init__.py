"""The server as whoever runs it sees it: what it leaves, what it writes down, how it is."""

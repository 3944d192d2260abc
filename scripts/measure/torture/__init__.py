"""What a server must bear: kills, broken files, hostile requests, and many annotators at once."""

"""A transcript as text, and back: what is written for other programs and for people to read."""

"""What was said: values. Nothing here opens a connection, reads a clock or makes an id."""

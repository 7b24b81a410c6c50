"""How a conversation is spoken to the Messages API."""

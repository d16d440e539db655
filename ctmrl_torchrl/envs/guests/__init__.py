"""A user's own families, made from gymnasium environments."""

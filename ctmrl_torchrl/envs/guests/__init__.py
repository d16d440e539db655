"""Custom environment families, created from gymnasium environments."""

"""Rows of schema registry, a module per noun. Every function takes a connection inside a tenant's transaction."""

"""Positions become trips and stops."""

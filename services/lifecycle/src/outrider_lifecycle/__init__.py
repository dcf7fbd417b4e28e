"""Rollups, retention, archive, erasure and the size of the stores."""

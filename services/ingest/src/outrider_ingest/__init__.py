"""Ingest: decodes what devices publish, fixes its time, keeps what it refuses, and puts the rest on the bus."""

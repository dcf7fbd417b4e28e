"""Outrider's shared library: the wire contract, the service chassis, private servers and test fixtures."""

__version__ = "0.1.0"

"""Chaos: real processes and servers, seeded faults on a timeline, and a checker that counts every sample by value."""

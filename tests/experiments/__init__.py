"""Experiments whose figures the decisions in docs/adr/ quote; each runs as a module and prints its table."""

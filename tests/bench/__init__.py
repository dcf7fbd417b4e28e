"""The benchmark of the whole system: real servers and services under load, CPU counted by component."""

"""Who may do what at the broker, and the keys behind it: rights, their rendering for Mosquitto, secrets, certificates."""

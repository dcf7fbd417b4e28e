"""The service chassis: settings, logs, metrics, sessions, slots, the consumer with the one ack rule, the database edge."""

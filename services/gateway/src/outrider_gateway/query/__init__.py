"""The query half: what is asked → which tiers answer it → columns → a format. Only `store` and `trips` talk to PostgreSQL."""

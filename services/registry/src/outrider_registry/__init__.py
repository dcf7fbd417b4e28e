"""Who a device is, what it may do and how it is configured: model, REST API, console and the broker's identities."""

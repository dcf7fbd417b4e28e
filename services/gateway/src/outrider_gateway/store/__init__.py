"""SQL of the gateway, visible: keys, uploads, transactions of one tenant."""

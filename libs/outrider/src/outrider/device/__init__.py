"""The device's side of the delivery contract, pure: what a simulator, an agent or a test needs to be a good device."""

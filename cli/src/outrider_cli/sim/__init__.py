"""A simulated fleet: recorded drives, sensors and servers that keep the delivery contract over real MQTT connections."""

"""Block devices and volumes: opening, checking, verified reads and durable writes."""

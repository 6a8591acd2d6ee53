"""Links between nodes: sessions (pure), outboxes (pure) and the ZeroMQ sockets under them."""

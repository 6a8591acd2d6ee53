"""What travels between nodes: typed messages and the frames they are packed into."""

"""The decisions of each role: plain Python that takes events and ``now``, and leaves its effects in an outbox.

No socket, clock, thread, task or unseeded randomness in here: the same objects run over ZeroMQ and in the simulator.
"""

"""A free port for a server of a test."""

import random
import socket

# Above the ports of Ray's workers (10002 to 19999) and below those that Linux gives to outgoing connections
# (from 32768), of which one can take the port between its choice here and the server's start.
SERVERS = range(20000, 32768)
draws = random.SystemRandom()


def free_port() -> int:
    while True:
        port = draws.choice(SERVERS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port

"""gRPC over unix sockets, for every service of this node: servers, threads, generated messages. Knows no driver."""

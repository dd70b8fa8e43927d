"""The HTTP side of the fake API server: connections, TLS, requests and replies, the control port."""

"""What every DRA driver of this node shares: sockets, claims, transaction, slices. Enter at ``service``.

Knows no device kind; a driver plugs in through the protocol in ``driver``.
"""

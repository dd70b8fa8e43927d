"""What every DRA driver of this node shares: claims, ResourceSlices, the kubelet's services, readiness.

Knows no device kind; a driver implements the protocol in ``driver``. Assembled by ``app.plugin``.
"""

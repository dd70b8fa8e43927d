"""What all kinds of tests share: waits, certificates, Kubernetes objects. Imports nothing else of the tests."""

"""Several hosts of a cluster, and Ansible on them."""

"""Virtual machines to try kops-py on: a Vagrantfile and the inventory for its machines (see README.md)."""

"""Nodes from a kind node image with sshd in them: machines for kops-py where containers are at hand."""

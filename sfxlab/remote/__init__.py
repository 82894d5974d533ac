"""Files on the network: what addresses name, and reading it through blocks kept on the local disk."""

"""etcd as a source: the client of its v3 API, and the Store of the network's records on top of it."""

"""kube-proxy and spliceway in turn on the same cluster, cell by cell against what the specification says."""

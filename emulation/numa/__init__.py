"""The remote-NUMA host: find nodes, bind, verify, measure."""

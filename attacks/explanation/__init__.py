"""Attribution methods: (a network to ask, pictures, classes) -> where each picture speaks for its class."""

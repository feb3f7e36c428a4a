"""Output heads: how states choose among the items of the catalogue, each a value with loss, ranks and top items."""

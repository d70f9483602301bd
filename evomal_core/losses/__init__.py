"""What a loss is: Table I, expression trees, the meta-loss network, export."""

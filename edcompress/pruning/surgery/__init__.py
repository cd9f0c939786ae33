"""From dependency groups to genes, from a state to masks, from a plan to a smaller network."""

"""What a run found, for machines and for people."""

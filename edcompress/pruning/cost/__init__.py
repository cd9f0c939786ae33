"""What a network costs at any widths, and states within a budget."""

"""What can be removed from a network, what that costs, and the search for what to remove."""

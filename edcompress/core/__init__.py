"""What everything else stands on: errors, recipes, results and the system."""

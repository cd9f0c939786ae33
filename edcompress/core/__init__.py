"""The foundation of all other packages: errors, recipes, results, registries and the system."""

"""The search methods, one per file; `edcompress.pruning.search.method` describes such a file."""

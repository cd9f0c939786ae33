"""The search methods, one per file; `edcompress.pruning.search.method` says what such a file holds."""

"""Gate limits, one file each; the file's name is the recipe key. See `edcompress.report.gate.limit`."""

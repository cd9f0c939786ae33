"""Trackers, one file each; the file's name is that of `--log`. See `edcompress.runs.tracking`."""

"""Images: data sets, their splits, and batches."""

"""The data sets that `data.dataset` can name, one module each."""

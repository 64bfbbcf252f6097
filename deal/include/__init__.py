"""C headers of the package; see deal.get_include()."""

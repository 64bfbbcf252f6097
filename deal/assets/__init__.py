"""Files that pages embed: the tree's own, and D3 with its licence."""

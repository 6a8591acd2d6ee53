"""The replicated config: versioned records, how they spread, and who runs what because of them."""

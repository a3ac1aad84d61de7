"""The page of a set of results, and a card for each of their networks."""

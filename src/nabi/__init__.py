"""nabi: image classifiers that you can see through."""

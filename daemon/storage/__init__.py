"""Storage: health of the folders, volume markers, and the folders themselves."""

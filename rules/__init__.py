"""Rule files: which prompt and preset a picture gets. Knows nothing of the model."""

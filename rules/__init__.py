"""Rule files: choose the prompt and preset of a picture. Independent of the model."""

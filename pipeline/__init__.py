"""From a picture and a Spec to a clip: what a clip is, and the children that make it."""

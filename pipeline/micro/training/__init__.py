"""How the checkpoint was made and is measured. Not in the wheel."""

"""Image child: the only code that decodes untrusted bytes, in a separate process."""

"""The image child: the only code that decodes untrusted bytes, in a process of its own."""
